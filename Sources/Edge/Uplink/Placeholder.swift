import AsyncHTTPClient
import CZstd
import Crypto

enum Placeholder {}
