import CZstd
import Hummingbird
import HummingbirdTLS

enum Placeholder {}
