# test/cli/tfrec-convert-svhn.bats -- SVHN out of its MATLAB files.

setup() {
    load ../helpers
    load ../archives
    mkdir -p src
}

@test "tfrec-convert: SVHN's images are those that scipy reads, and the digit 10 is 0" {
    archive svhn src/train_32x32.mat train 300
    archive svhn src/test_32x32.mat t10k 60
    run tfrec-convert --set svhn --checksum skip -o out src
    assert_output --partial "classes 10 train 300 test 60 holdout 30 rest 270"
    PYTHONPATH=$ROOT/test "$PYTHON" - <<'PY'
import tfrecord
from scipy.io import loadmat
for split in "train", "test":
    mat = loadmat(f"src/{split}_32x32.mat")
    assert 10 in mat["y"] and 0 not in mat["y"]
    got = [tfrecord.example(r) for r in tfrecord.records(f"out/{split}.tfrecord", checked=2)]
    assert len(got) == mat["X"].shape[3] == (300 if split == "train" else 60)
    for i, e in enumerate(got):
        assert e["image/encoded"] == mat["X"][..., i].tobytes(), i
        assert e["image/class/label"] == mat["y"][i, 0] % 10, i
        assert e["image/height"] == e["image/width"] == 32
PY
}

@test "tfrec-convert: uncompressed MATLAB files and labels in double serve as well" {
    archive svhn src/train_32x32.mat train 300
    archive svhn src/test_32x32.mat t10k 60
    convert svhn a src
    "$PYTHON" - <<'PY'
from scipy.io import loadmat, savemat
for part in "train", "test":
    mat = loadmat(f"src/{part}_32x32.mat")
    savemat(f"src/{part}_32x32.mat", {"y": mat["y"].astype(float), "X": mat["X"]}, do_compression=False)
PY
    convert svhn b src
    assert_same_data a b
}

@test "tfrec-convert: files that are no SVHN are refused with what is wrong" {
    archive svhn src/train_32x32.mat train 300
    "$PYTHON" - <<'PY'
import numpy as np
from scipy.io import savemat
X, y = np.zeros((32, 32, 3, 5), np.uint8), np.ones((5, 1), np.uint8)
savemat("no-y.mat", {"X": X})
savemat("four-labels.mat", {"X": X, "y": y[:4]})
savemat("eleven.mat", {"X": X, "y": y * 11})
savemat("zero.mat", {"X": X, "y": y * 0})
savemat("half.mat", {"X": X, "y": y * 1.5})
savemat("floats.mat", {"X": X.astype(float), "y": y})
savemat("grey.mat", {"X": X[:, :, :1], "y": y})
savemat("cell.mat", {"X": np.array([X, "x"], dtype=object), "y": y})
savemat("struct.mat", {"X": {"X": X}, "y": y})
open("hdf5.mat", "wb").write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400))
open("text.mat", "w").write("not a matlab file" * 20)
open("empty.mat", "w")
PY
    declare -A says=(
        [no-y]="no variable 'y'"
        [four-labels]="4 labels, but 5 images"
        [eleven]="image 0: label 11 is none of 1..10"
        [zero]="image 0: label 0 is none of 1..10"
        [half]="image 0: label 1.5 is none of 1..10"
        [floats]="variable 'X' is no array of bytes of 32x32x3xN"
        [grey]="variable 'X' is no array of bytes of 32x32x3xN"
        [cell]="variable 'X' is no array of real numbers"
        [struct]="variable 'X' is no array of real numbers"
        [hdf5]="not a little-endian MATLAB 5 file"
        [text]="not a little-endian MATLAB 5 file"
        [empty]="cut short"
    )
    local kind
    for kind in "${!says[@]}"; do
        cp $kind.mat src/test_32x32.mat
        run --separate-stderr tfrec-convert --set svhn --checksum skip -o out src
        assert_refused out
        [[ "$stderr" == "tfrec-convert: src/test_32x32.mat: ${says[$kind]}"* ]] || fail "$kind: $stderr"
    done
}

@test "tfrec-convert: a MATLAB file that is cut anywhere is refused in one line" {
    archive svhn src/train_32x32.mat train 30
    archive svhn good.mat t10k 10
    local size at
    size=$(stat -c %s good.mat)
    for at in 0 1 100 124 127 128 130 136 140 150 200 $((size / 2)) $((size - 60)) $((size - 20)) $((size - 5)) $((size - 1)); do
        head -c "$at" good.mat >src/test_32x32.mat
        run --separate-stderr tfrec-convert --set svhn --checksum skip -o out src
        assert_refused out
        [[ "$stderr" == "tfrec-convert: src/test_32x32.mat: "* ]]
    done
}

@test "tfrec-convert: MATLAB files that lie about sizes, types and lengths are refused in one line" {
    archive svhn src/train_32x32.mat train 300
    "$PYTHON" - <<'PY'
import struct, zlib
def element(type, data): return struct.pack("<II", type, len(data)) + data + bytes(-len(data) % 8)
def array(name, dims, values, kind=2, cls=9, dims_bytes=None, said=None, name_bytes=None):
    sizes = element(5, struct.pack(f"<{len(dims)}i", *dims))
    if dims_bytes is not None: sizes = struct.pack("<II", 5, dims_bytes) + sizes[8:]
    label = struct.pack("<HH", 1, len(name)) + name.ljust(4, b"\0")
    if name_bytes is not None: label = struct.pack("<II", 1, name_bytes) + name.ljust(8, b"\0")
    body = struct.pack("<IIII", 6, 8, cls, 0) + sizes + label
    return element(14, body + struct.pack("<II", kind, len(values) if said is None else said) + values + bytes(-len(values) % 8))
def packed(element):
    z = zlib.compress(element)
    return struct.pack("<II", 15, len(z)) + z
head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
pixels, y = bytes(5 * 3072), array(b"y", (5, 1), b"\1\2\3\4\5")
def write(name, x, y=y):
    for how, form in ("", bytes), ("-packed", packed):
        open(f"{name}{how}.mat", "wb").write(head + form(x) + form(y))
good = dict(name=b"X", dims=(32, 32, 3, 5), values=pixels)
lies = {"more-images": dict(dims=(32, 32, 3, 6)), "fewer-images": dict(dims=(32, 32, 3, 4)), "a-million-images": dict(dims=(32, 32, 3, 1 << 20)),
        "negative-images": dict(dims=(32, 32, 3, -5)), "overflow": dict(dims=(1 << 16, 1 << 16, 1 << 16, 1 << 16)),
        "doubles-in-bytes": dict(kind=9), "type-of-no-size": dict(kind=8), "type-beyond": dict(kind=77),
        "values-cut": dict(values=pixels[:-8], said=5 * 3072), "values-of-4gb": dict(said=0xfffffff0),
        "sizes-of-2gb": dict(dims_bytes=0x7ffffff0), "sizes-of-700mb": dict(dims_bytes=700 << 20), "sizes-of-one": dict(dims=(15360,), values=pixels),
        "name-of-4gb": dict(name_bytes=0xfffffff0), "struct": dict(cls=2), "cell": dict(cls=1), "sparse": dict(cls=5), "complex": dict(cls=9 | 0x800)}
write("good", array(**good))
for name, lie in lies.items():
    write(name, array(**{**good, **lie}))
write("labels-cut", array(**good), array(b"y", (5, 1), b"\1\2\3\4\5", kind=9, cls=6))
open("length-of-4gb.mat", "wb").write(head + struct.pack("<II", 15, 0xfffffff0) + bytes(64))
open("no-element.mat", "wb").write(head + element(3, bytes(64)))
open("sixty-five.mat", "wb").write(head + y * 65)
body = bytearray(packed(array(**good)) + packed(y))
body[-1] ^= 1
open("check-sum.mat", "wb").write(head + bytes(body))
PY
    local file
    for file in good*.mat; do
        cp "$file" src/test_32x32.mat
        convert svhn out src
        rm -r out
    done
    for file in *.mat; do
        [[ "$file" != good* ]] || continue
        cp "$file" src/test_32x32.mat
        run --separate-stderr tfrec-convert --set svhn --checksum skip -o out src
        assert_refused out
        [[ "$stderr" == "tfrec-convert: src/test_32x32.mat: "* ]] || fail "$file: $stderr"
        echo "$file: $stderr"
    done
    [[ "$(ls *.mat | wc -l)" = 44 ]]
}
