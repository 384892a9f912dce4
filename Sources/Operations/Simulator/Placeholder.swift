import CMosquitto

enum Placeholder {}
