enum Placeholder {}
import CPostgres
