import CPostgres

enum Placeholder {}
