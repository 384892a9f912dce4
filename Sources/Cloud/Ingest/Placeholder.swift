import Hummingbird
import HummingbirdTLS
import CZstd
enum Placeholder {}
