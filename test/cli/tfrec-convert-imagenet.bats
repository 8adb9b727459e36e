# test/cli/tfrec-convert-imagenet.bats -- ImageNet's archives: a tar of tars, a tar with labels, class folders.

setup() {
    load ../helpers
    load ../archives
}

# imagenet OUT SRC [OPTION]...: small images, few shards
imagenet() {
    local out=$1 src=$2
    shift 2
    tfrec-convert --set imagenet --checksum skip --side 32 --shards 3 --labels src/val.txt -o "$out" "$@" "$src"
}

@test "tfrec-convert: ImageNet's images are those that PIL decodes, resizes and crops; 13 of each class are held out" {
    archive imagenet src 4 30 20
    run imagenet out src
    assert_success
    assert_output --partial "classes 4 train 0 test 20 holdout 52 rest 68"
    PYTHONPATH=$ROOT/test "$PYTHON" - <<'PY'
import collections, glob, io, json, tarfile, numpy as np, tfrecord
from PIL import Image

def crop(data, side=32):
    image = Image.open(io.BytesIO(data)).convert("RGB")
    w, h = image.size
    short = (side * 256 + 112) // 224
    image = image.resize((short, int(short * h / w)) if w <= h else (int(short * w / h), short), Image.BILINEAR)
    left, top = round((image.size[0] - side) / 2), round((image.size[1] - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side))).astype(int)

def got(part):
    for name in sorted(glob.glob(f"out/{part}-*-of-00003.tfrecord")):
        for r in tfrecord.records(name, checked=1):
            e = tfrecord.example(r)
            assert e["image/height"] == e["image/width"] == 32
            yield np.frombuffer(e["image/encoded"], np.uint8).reshape(32, 32, 3).astype(int), e["image/class/label"]

def same(a, b): # grey, RGB and CMYK images, PNG: decoders agree to the bit, and so does the filter, but for sums that
    return np.abs(a - b).max() <= 1 # lie within 2^-22 of a half
outer, wnids, train = tarfile.open("src/ILSVRC2012_img_train.tar"), [], []
for m in sorted(outer, key=lambda m: m.name):
    wnids.append(m.name[:-4])
    inner = tarfile.open(fileobj=io.BytesIO(outer.extractfile(m).read()))
    for n in sorted(inner, key=lambda n: n.name):
        train.append((crop(inner.extractfile(n).read()), len(wnids) - 1))
label = dict(line.split() for line in open("src/val.txt"))
tar = tarfile.open("src/ILSVRC2012_img_val.tar")
val = [(crop(tar.extractfile(m).read()), wnids.index(label[m.name])) for m in tar]
test = list(got("test"))
assert len(test) == len(val) == 20
for i, ((a, y), (b, z)) in enumerate(zip(test, val)):
    assert y == z and same(a, b), (i, y, z, np.abs(a - b).max())
exact = sum((a == b).all() for (a, _), (b, _) in zip(test, val))
assert exact >= 18, exact
# holdout and rest are the training images, in their order
hold, rest = list(got("holdout")), list(got("rest"))
assert collections.Counter(y for _, y in hold) == {k: 13 for k in range(4)}
assert len(hold) + len(rest) == len(train) == 120
h = r = 0
for i, (a, y) in enumerate(train):
    if h < len(hold) and hold[h][1] == y and same(hold[h][0], a):
        h += 1
    else:
        assert rest[r][1] == y and same(rest[r][0], a), i
        r += 1
m = json.load(open("out/manifest.json"))
assert list(m["splits"]) == ["test", "holdout", "rest"] and m["classes"] == 4
assert m["splits"]["rest"]["per_class"] == [17] * 4 and [s["images"] for s in m["splits"]["test"]["shards"]] == [6, 7, 7]
PY
    run tfrec-convert --check out/*.tfrecord
    assert_success
    assert_equal "$(grep -c 'manifest agrees$' <<<"$output")" 9
}

@test "tfrec-convert: ImageNet's archives and class folders give the same files, for any number of threads, by any instructions" {
    archive imagenet src 3 20 12
    archive folders folders 3 20 12
    imagenet a src -q
    imagenet b folders -q
    OMP_NUM_THREADS=1 imagenet c src -q
    diff -r a c
    local k isa
    for isa in v2 v3; do # where the machine has less, it is the same way once more
        HERACLES_ISA=$isa imagenet "by-$isa" src -q
        diff -r a "by-$isa"
    done
    for k in 0 1 2; do
        cmp a/rest-0000$k-of-00003.tfrecord b/rest-0000$k-of-00003.tfrecord
        cmp a/holdout-0000$k-of-00003.tfrecord b/holdout-0000$k-of-00003.tfrecord
    done
    imagenet d src -q --seed 9
    run -1 cmp -s a/holdout-00000-of-00003.tfrecord d/holdout-00000-of-00003.tfrecord
}

@test "tfrec-convert: ImageNet's labels may be names alone, in the order of the images, or numbers" {
    archive imagenet src 3 15 12
    imagenet a src -q
    sort src/val.txt | cut -d' ' -f 2 >names
    tfrec-convert -q --set imagenet --checksum skip --side 32 --shards 3 --labels names -o b src
    awk 'NR == FNR { k[$1] = NR - 1; next } { print $1, k[$2] }' <(sort -u names) src/val.txt >numbers
    tfrec-convert -q --set imagenet --checksum skip --side 32 --shards 3 --labels numbers -o c src
    local k
    for k in 0 1 2; do
        cmp a/test-0000$k-of-00003.tfrecord b/test-0000$k-of-00003.tfrecord
        cmp a/test-0000$k-of-00003.tfrecord c/test-0000$k-of-00003.tfrecord
    done
}

@test "tfrec-convert: the devkit's numbers are labels only together with a list of synsets in their order" {
    archive imagenet src 3 15 12
    imagenet a src -q
    sort src/val.txt | cut -d' ' -f 2 >names
    printf '%s\n' 'n01440795, second' n01440826 'n01440764 first' n00001740 >synsets
    awk -F'[ ,]' 'NR == FNR { k[$1] = NR; next } { print k[$1] }' synsets names >ground_truth.txt
    tfrec-convert -q --set imagenet --checksum skip --side 32 --shards 3 --labels ground_truth.txt --synsets synsets -o b src
    local k
    for k in 0 1 2; do
        cmp a/test-0000$k-of-00003.tfrecord b/test-0000$k-of-00003.tfrecord
    done
    run --separate-stderr tfrec-convert -q --set imagenet --checksum skip --side 32 --shards 3 --labels ground_truth.txt -o c src
    assert_refused c
    assert_equal "$stderr" "tfrec-convert: ground_truth.txt: line 1: '$(head -n 1 ground_truth.txt)' is a number of the devkit's own order, which its meta.mat tells: --synsets takes a list of them, or give names as labels"
    head -n 1 synsets >few
    run --separate-stderr tfrec-convert -q --set imagenet --checksum skip --side 32 --labels ground_truth.txt --synsets few -o c src
    assert_refused c
    assert_equal "$stderr" "tfrec-convert: few: names 1 of the 3 classes of src/ILSVRC2012_img_train.tar"
    sed -i '5s/.*/9/' ground_truth.txt
    run --separate-stderr tfrec-convert -q --set imagenet --checksum skip --side 32 --labels ground_truth.txt --synsets synsets -o c src
    assert_refused c
    assert_equal "$stderr" "tfrec-convert: ground_truth.txt: line 5: '9' is outside 1..4, the lines of synsets"
}

@test "tfrec-convert: --published-names links ImageNet's shards, and forgets those of another conversion" {
    archive imagenet src 3 15 12
    imagenet out src -q --published-names --shards 2
    imagenet out src -q --published-names
    assert_equal "$(cd out && echo ilsvrc12_*)" "$(echo ilsvrc12_{split_train,valid}-0000{0,1,2}-of-00003.tfrecord)"
    assert_equal "$(readlink out/ilsvrc12_valid-00002-of-00003.tfrecord)" test-00002-of-00003.tfrecord
    run tfrec-convert --check out/ilsvrc12_split_train-0000*
    assert_success
    assert_equal "$(grep -c 'records 13 ' <<<"$output")" 3
}

@test "tfrec-convert: an ImageNet conversion killed at any shard goes on, and ends with the same bytes" {
    archive imagenet src 4 15 6
    imagenet want src -q
    local n
    for n in 1 2 3 4 6 8 9; do
        rm -rf out
        run env HERACLES_CRASH=rename:$n bash -c "$(declare -f imagenet); imagenet out src -q"
        assert_equal "$status" 137
        assert_not_exists out/manifest.json
        run tfrec-convert --check out/manifest.json
        assert_failure
        imagenet out src -q
        diff -r want out
    done
}

@test "tfrec-convert: a state that another command left is refused, and --restart discards it" {
    archive imagenet src 4 15 6
    run env HERACLES_CRASH=rename:8 bash -c "$(declare -f imagenet); imagenet out src -q"
    assert_equal "$status" 137
    run --separate-stderr imagenet out src --seed 3
    assert_equal "$status" 1
    assert_equal "$stderr" "tfrec-convert: out/manifest.json.state: belongs to another run: --seed was 1234, now 3; --restart discards it"
    imagenet out src -q --seed 3 --restart
    imagenet want src -q --seed 3
    diff -r want out
}

@test "tfrec-convert: SIGTERM ends an ImageNet conversion with status 75, and the same command goes on" {
    archive folders src 3 15 6
    : >src/val.txt
    imagenet want src -q
    # one image comes through a FIFO, so that the conversion waits for us when the test images are done
    local image pid
    image=src/train/n01440795/$(ls src/train/n01440795 | head -n 1)
    mv "$image" content
    mkfifo "$image"
    tfrec-convert -q --set imagenet --checksum skip --side 32 --shards 3 --labels src/val.txt -o out src &
    pid=$!
    until [ -e out/manifest.json.state ]; do
        kill -0 $pid || fail "the conversion ended early"
        sleep 0.02
    done
    kill -TERM $pid
    # it waits at the FIFO, or has ended before it came there
    until dd if=content of="$image" oflag=nonblock status=none 2>/dev/null || ! kill -0 $pid 2>/dev/null; do
        sleep 0.02
    done
    local status=0
    wait $pid || status=$?
    assert_equal "$status" 75
    assert_not_exists out/manifest.json
    timeout 20 cat content >"$image" &
    imagenet out src -q
    local f
    for f in want/*.tfrecord; do
        cmp "$f" "out/${f##*/}"
    done
}

@test "tfrec-convert: damaged images are refused by name, or left out and listed" {
    archive folders src 3 16 6
    printf 'n00000000' >src/val.txt
    local first second
    first=$(ls src/train/n01440764 | sed -n 3p)
    second=$(ls src/train/n01440795 | sed -n 1p)
    head -c 700 "src/train/n01440764/$first" >cut && mv cut "src/train/n01440764/$first"
    echo "no image" >"src/train/n01440795/$second"
    run --separate-stderr imagenet out src
    assert_equal "$status" 1
    [[ "$stderr" == "tfrec-convert: src: n01440764/$first: a damaged JPEG: "*"; 0 such images are allowed (--max-bad)" ]] || fail "$stderr"
    assert_not_exists out/manifest.json
    run --separate-stderr imagenet out src --max-bad 1
    assert_equal "$status" 1
    [[ "$stderr" == "tfrec-convert: src: n01440795/$second: neither a JPEG nor a PNG image; 1 such images are allowed (--max-bad)" ]]
    run imagenet out src --max-bad 2
    assert_success
    assert_output --partial "warning: out: 2 damaged images are left out; manifest.json lists them"
    assert_output --partial "holdout 39 rest 7"
    run "$PYTHON" -c 'import json
for d in json.load(open("out/manifest.json"))["damaged"]: print(d["image"], d["why"])'
    assert_line --index 0 --partial "n01440764/$first a damaged JPEG: "
    assert_line --index 1 "n01440795/$second neither a JPEG nor a PNG image"
}

@test "tfrec-convert: what is no ImageNet is refused, with what is wrong" {
    archive imagenet src 3 15 6
    run --separate-stderr tfrec-convert --set imagenet -o out src --labels src/val.txt
    assert_refused out
    assert_equal "$stderr" "tfrec-convert: src: 3 classes and 6 test images, ImageNet has 1000 and 50000"
    run --separate-stderr tfrec-convert --set imagenet --checksum skip -o out src
    assert_refused out
    assert_equal "$stderr" "tfrec-convert: src/ILSVRC2012_img_val.tar: which classes its images have must be told (--labels)"
    run --separate-stderr imagenet out src --holdout-each 16
    assert_equal "$stderr" "tfrec-convert: a holdout needs 16 images of each class, class 0 has 15"
    rm -rf out # test shards are done by then
    run --separate-stderr imagenet out nowhere
    assert_refused out
    assert_equal "$stderr" "tfrec-convert: nowhere/train: No such file or directory"

    cp src/val.txt good
    declare -A labels=([short]="ILSVRC2012_val_00000001.JPEG n01440764" [unknown]="n09999999" [many]="$(cat good good)" [number]="7")
    declare -A says=([short]="no label for ILSVRC2012_val_00000002.JPEG" [unknown]="line 1: 'n09999999' is no class of src/ILSVRC2012_img_train.tar"
        [many]="line 7: a second label for ILSVRC2012_val_00000006.JPEG" [number]="line 1: '7' is a number of the devkit's own order, which its meta.mat tells: --synsets takes a list of them, or give names as labels")
    local kind
    for kind in "${!says[@]}"; do
        echo "${labels[$kind]}" >src/val.txt
        run --separate-stderr imagenet out src
        assert_refused out
        assert_equal "$stderr" "tfrec-convert: src/val.txt: ${says[$kind]}"
    done
}

@test "tfrec-convert: ImageNet's training archive, cut anywhere, is refused in one line" {
    archive imagenet src 2 14 4
    cp src/ILSVRC2012_img_train.tar good
    local size at
    size=$(stat -c %s good)
    for at in 0 100 511 512 1000 1500 3000 $((size / 2)) $((size * 2 / 3)); do
        head -c "$at" good >src/ILSVRC2012_img_train.tar
        run --separate-stderr imagenet out src
        assert_equal "$status" 1
        [[ "$stderr" == "tfrec-convert: src/ILSVRC2012_img_train.tar: "* ]] || fail "$stderr"
        assert_equal "$(wc -l <<<"$stderr")" 1
        assert_not_exists out/manifest.json
        rm -rf out
    done
}
