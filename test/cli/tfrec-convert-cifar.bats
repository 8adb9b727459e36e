# test/cli/tfrec-convert-cifar.bats -- CIFAR-10 out of its two archives, nothing unpacked.

setup() {
    load ../helpers
    load ../archives
}

@test "tfrec-convert: CIFAR-10's images are those that Python's pickle and tarfile read, in the order of the batches" {
    archive cifar10-python a.tar.gz 250 60
    convert cifar10 out a.tar.gz
    PYTHONPATH=$ROOT/test "$PYTHON" - <<'PY'
import pickle, tarfile, tfrecord
tar = tarfile.open("a.tar.gz")
for split, names in ("train", ["data_batch_%d" % i for i in range(1, 6)]), ("test", ["test_batch"]):
    want = []
    for name in names:
        d = pickle.load(tar.extractfile("cifar-10-batches-py/" + name), encoding="bytes")
        for row, label in zip(d[b"data"], d[b"labels"]):
            want.append((row.reshape(3, 32, 32).transpose(1, 2, 0).tobytes(), label))
    got = [tfrecord.example(r) for r in tfrecord.records(f"out/{split}.tfrecord", checked=2)]
    assert [(e["image/encoded"], e["image/class/label"]) for e in got] == want, split
    assert len(want) == (250 if split == "train" else 60)
PY
}

@test "tfrec-convert: CIFAR-10's binary and Python archives give the same tfrecords" {
    archive cifar10-python p.tar.gz 250 60
    archive cifar10-binary b.tar.gz 250 60
    convert cifar10 p p.tar.gz
    convert cifar10 b b.tar.gz
    assert_same_data p b
    run tfrec-convert --set cifar10 --checksum skip --seed 5 --name Mine -o c b.tar.gz
    assert_success
    assert_output --partial "classes 10 train 250 test 60 holdout 20 rest 230"
    cmp b/train.tfrecord c/train.tfrecord
    run -1 cmp -s b/holdout.tfrecord c/holdout.tfrecord
    grep -q '"checksum": "skip"' c/manifest.json
}

@test "tfrec-convert: batches that Python 3 pickled again, under any binary protocol, give the same tfrecords" {
    need_python numpy
    archive cifar10-python published.tar.gz 250 60
    convert cifar10 published published.tar.gz
    "$PYTHON" - <<'PY'
import io, pickle, tarfile
for encoding in "bytes", "latin1":
    for protocol in range(1, pickle.HIGHEST_PROTOCOL + 1):
        with tarfile.open("published.tar.gz") as old, tarfile.open(f"{encoding}{protocol}.tar.gz", "w:gz") as new:
            for member in old.getmembers():
                if member.isfile():
                    data = pickle.dumps(pickle.load(old.extractfile(member), encoding=encoding), protocol)
                    member.size = len(data)
                    new.addfile(member, io.BytesIO(data))
PY
    local file
    for file in bytes?.tar.gz latin1?.tar.gz; do
        echo "# $file"
        convert cifar10 "${file%.tar.gz}" "$file"
        assert_same_data published "${file%.tar.gz}"
    done
}

@test "tfrec-convert: CIFAR-10's archive may be found in a directory, and be an unzipped tar" {
    archive cifar10-binary cifar-10-binary.tar.gz 250 60
    convert cifar10 a .
    gunzip -c cifar-10-binary.tar.gz >plain.tar
    convert cifar10 b plain.tar
    assert_same_data a b
}

@test "tfrec-convert: --published-names adds links that lead to the splits, and touches no file of somebody else" {
    archive cifar10-binary b.tar.gz 250 60
    convert cifar10 plain b.tar.gz
    convert cifar10 out b.tar.gz --published-names
    assert_same_data plain out
    cmp plain/manifest.json out/manifest.json
    assert_equal "$(cd out && for f in cifar_*; do echo "$f $(readlink "$f")"; done)" "cifar_test.tfrecord test.tfrecord
cifar_train.tfrecord train.tfrecord
cifar_train_45k.tfrecord rest.tfrecord
cifar_train_5k.tfrecord holdout.tfrecord"
    run tfrec-convert --check out/cifar_train_5k.tfrecord
    assert_success
    convert cifar10 out b.tar.gz --published-names # once more
    mkdir other
    echo precious >other/cifar_test.tfrecord
    run --separate-stderr convert cifar10 other b.tar.gz --published-names
    assert_equal "$status" 1
    assert_equal "$stderr" "tfrec-convert: other/cifar_test.tfrecord: is in the way of a link to test.tfrecord"
    assert_equal "$(cat other/cifar_test.tfrecord)" precious
    run --separate-stderr convert idx none b.tar.gz --published-names
    assert_refused none
    assert_equal "$stderr" "tfrec-convert: no published program reads the set idx: it has no published names"
}

@test "tfrec-convert: an archive that is not the published one is refused unless that is asked for" {
    archive cifar10-binary a.tar.gz 250 60
    run --separate-stderr tfrec-convert --set cifar10 -o out a.tar.gz
    assert_refused out
    assert_equal "$stderr" "tfrec-convert: a.tar.gz: 250 training and 60 test images, CIFAR10 has 50000 and 10000"
}

@test "tfrec-convert: a pickle that asks for anything but an array runs nothing and is refused by name" {
    need_python pickle
    "$PYTHON" - <<'PY'
import io, tarfile
def batch(name, pickle):
    with tarfile.open(name, "w:gz") as tar:
        for n in ["data_batch_%d" % i for i in range(1, 6)] + ["test_batch"]:
            info = tarfile.TarInfo("cifar-10-batches-py/" + n)
            info.size = len(pickle)
            tar.addfile(info, io.BytesIO(pickle))
batch("evil.tar.gz", b"\x80\x02cposix\nsystem\nU\x0ctouch ran.txt\x85R.")
batch("other.tar.gz", b"\x80\x02ccollections\nOrderedDict\n)R.")
batch("id.tar.gz", b"\x80\x02U\x01xQ.")
batch("long.tar.gz", b"\x80\x02](" + b"N" * (1 << 20 | 1) + b"e.")
text = lambda s, codec: b"\x80\x02c_codecs\nencode\nX" + bytes([len(s), 0, 0, 0]) + s + b"U" + bytes([len(codec)]) + codec + b"\x86R."
batch("wide.tar.gz", text("a\u0100".encode(), b"latin1"))
batch("cut.tar.gz", text(b"a\xc3", b"latin1"))
batch("utf16.tar.gz", text(b"a", b"utf-16"))
batch("memo.tar.gz", b"\x80\x02Nr\xff\xff\xff\x7f.")
PY
    declare -A says=([evil]="names posix.system, which only an attack does; nothing was run"
        [other]="asks for collections.OrderedDict: only numpy's arrays are read" [id]="has a persistent id at byte 6"
        [long]="has a list of more than 1048576 items" [memo]="has memo number 2147483647 in 9 bytes" [wide]="has a character that is no byte of latin1"
        [cut]="has a character that is no byte of latin1" [utf16]="encodes what is no text in latin1")
    local kind
    for kind in "${!says[@]}"; do
        run --separate-stderr tfrec-convert --set cifar10 --checksum skip -o out $kind.tar.gz
        assert_refused out
        assert_equal "$stderr" "tfrec-convert: $kind.tar.gz: cifar-10-batches-py/data_batch_1: its pickle ${says[$kind]}"
        assert_not_exists ran.txt
    done
}

@test "tfrec-convert: a tar.gz that is cut or damaged anywhere is refused in one line" {
    archive cifar10-python good.tar.gz 25 10
    local size at
    size=$(stat -c %s good.tar.gz)
    for at in 0 1 9 10 11 100 512 1024 $((size / 3)) $((size / 2)) $((size - 9)) $((size - 8)) $((size - 1)); do
        head -c "$at" good.tar.gz >bad.tar.gz
        run --separate-stderr tfrec-convert --set cifar10 --checksum skip -o out bad.tar.gz
        assert_refused out
        [[ "$stderr" == "tfrec-convert: bad.tar.gz: "* ]]
    done
    for at in 12 77 $((size / 4)) $((size / 2)) $((size - 8)) $((size - 1)); do
        cp good.tar.gz bad.tar.gz
        printf '\xa5' | dd of=bad.tar.gz bs=1 seek="$at" conv=notrunc status=none
        run --separate-stderr tfrec-convert --set cifar10 --checksum skip -o out bad.tar.gz
        assert_refused out
    done
}

@test "tfrec-convert: a batch that is missing, double, of a wrong size or has wrong labels is named" {
    archive cifar10-binary good.tar.gz 25 10
    "$PYTHON" - <<'PY'
import io, tarfile
tar = tarfile.open("good.tar.gz")
good = [(m.name, tar.extractfile(m).read()) for m in tar if m.isfile()]
def write(out, members):
    with tarfile.open(out, "w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
batch3 = "cifar-10-batches-bin/data_batch_3.bin"
write("missing.tar.gz", [m for m in good if m[0] != batch3])
write("double.tar.gz", good + [m for m in good if m[0] == batch3])
write("short.tar.gz", [(n, d[:-1] if n == batch3 else d) for n, d in good])
write("label.tar.gz", [(n, b"\x0a" + d[1:] if n == batch3 else d) for n, d in good])
PY
    declare -A says=(
        [missing]="missing.tar.gz: not CIFAR-10's archive: it has no data_batch_3"
        [double]="double.tar.gz: cifar-10-batches-bin/data_batch_3.bin: a second one of this name"
        [short]="short.tar.gz: cifar-10-batches-bin/data_batch_3.bin: 15364 bytes are no whole number of records of 3073"
        [label]="label.tar.gz: cifar-10-batches-bin/data_batch_3.bin: image 10: label 10 is outside 0..9"
    )
    for kind in "${!says[@]}"; do
        run --separate-stderr tfrec-convert --set cifar10 --checksum skip -o out $kind.tar.gz
        assert_refused out
        assert_equal "$stderr" "tfrec-convert: ${says[$kind]}"
    done
}
