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
