enum Placeholder {}
import CMosquitto
