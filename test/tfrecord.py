"""An independent reader and writer of tfrecord files of images, in plain Python, for the tests.

Slow on purpose: the check sum is the textbook's bit loop, the protobuf wire format is taken apart by hand.
"""
import struct


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data):
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked(head)) + data + struct.pack("<I", masked(data))


def records(path, checked=0):
    """The records of a file; the check sums of the first `checked` ones are verified."""
    with open(path, "rb") as f:
        while head := f.read(12):
            (length,) = struct.unpack("<Q", head[:8])
            data, foot = f.read(length), f.read(4)
            assert len(foot) == 4, "cut short"
            if checked > 0:
                checked -= 1
                assert head[8:] == struct.pack("<I", masked(head[:8])), "check sum of the length"
                assert foot == struct.pack("<I", masked(data)), "check sum of the data"
            yield data


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def fields(data):
    """(field number, value) of a message that has varints and length-delimited fields only."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        else:
            assert tag & 7 == 2, "wire type %d" % (tag & 7)
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        yield tag >> 3, value


def example(data):
    """{key: bytes, int or list of floats} of a tf.train.Example; bytes and ints are one value each, floats are packed."""
    (features,) = (v for n, v in fields(data) if n == 1)
    out = {}
    for number, entry in fields(features):
        assert number == 1
        entry = dict(fields(entry))
        ((kind, values),) = fields(entry[2])
        ((_, value),) = fields(values)
        if kind == 3 and isinstance(value, bytes):
            value, end = varint(value, 0)
        elif kind == 2:
            value = list(struct.unpack("<%df" % (len(value) // 4), value))
        out[entry[1].decode()] = value
    return out


def field(number, content):
    return bytes([number << 3 | 2]) + as_varint(len(content)) + content


def as_varint(value):
    value &= (1 << 64) - 1
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def pack(features):
    """A tf.train.Example: bytes, an int, or a list of ints or floats for each key. Lists are packed."""
    entries = b""
    for key, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        elif isinstance(value, list) and value and isinstance(value[0], float):
            feature = field(2, field(1, struct.pack("<%df" % len(value), *value)))
        else:
            numbers = value if isinstance(value, list) else [value]
            feature = field(3, field(1, b"".join(map(as_varint, numbers))) if numbers else b"")
        entries += field(1, field(1, key.encode()) + field(2, feature))
    return field(1, entries)
