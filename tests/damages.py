"""Ways in which a file of a cache is damaged."""

from collections.abc import Callable

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[:-1],
    "emptied": lambda data: b"",
    "zeroed": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "flipped": lambda data: bytes([*data[:-1], data[-1] ^ 1]),
    "longer": lambda data: data + b"\0",
}
