import CRDKafka
import CSQLite

enum Placeholder {}
