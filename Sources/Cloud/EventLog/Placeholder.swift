enum Placeholder {}
import CSQLite
import CRDKafka
