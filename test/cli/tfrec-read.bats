# test/cli/tfrec-read.bats -- tfrecord files that others wrote: gzipped, sharded, with features that we do not know, with
# JPEG and PNG images; verified by --check, shown by --dump. The files are written by test/tfrecord.py, which shares no
# code with ours.

setup() {
    load ../helpers
    need_python numpy PIL
    export PYTHONPATH=$ROOT/test
}

@test "tfrec-convert --check: raw, JPEG and PNG images of the same pixels are the same data set; JPEG is decoded as PIL does" {
    "$PYTHON" - <<'PY'
import io, hashlib, struct, numpy as np, tfrecord
from PIL import Image
rng = np.random.default_rng(1)
small = rng.integers(0, 256, (5, 4, 6, 3), np.uint8)
images = [np.asarray(Image.fromarray(s).resize((30, 20), Image.BICUBIC)) for s in small] # smooth: JPEG has work to do
def encoded(image, kind, **options):
    f = io.BytesIO()
    Image.fromarray(image).save(f, kind, **options)
    return f.getvalue()
def write(name, images, raw):
    with open(name, "wb") as f:
        for i, image in enumerate(images):
            features = {"image/encoded": raw(image), "image/class/label": i, "image/height": 20, "image/width": 30}
            f.write(tfrecord.frame(tfrecord.pack(features)))
write("raw.tfrecord", images, lambda x: x.tobytes())
write("png.tfrecord", images, lambda x: encoded(x, "PNG"))
jpegs = [encoded(x, "JPEG", quality=q, subsampling=s) for x, q, s in zip(images, (95, 80, 60, 90, 75), (0, 1, 2, 2, 0))]
jpegs[3] = encoded(images[3], "JPEG", progressive=True)
with open("jpeg.tfrecord", "wb") as f:
    for i, j in enumerate(jpegs): # no height, no width
        f.write(tfrecord.frame(tfrecord.pack({"image/class/label": i, "image/encoded": j})))
decoded = [np.asarray(Image.open(io.BytesIO(j))) for j in jpegs]
for name, pixels in ("raw", images), ("png", images), ("jpeg", decoded):
    sha = hashlib.sha256(b"".join(p.tobytes() for p in pixels) + struct.pack("<5I", *range(5)) + b"5 20 30 3\n")
    print(f"{name}.tfrecord: records 5 shape 3x20x30 labels 0..4 encoded {5 * (name != 'raw')} "
          f"digest {sha.hexdigest()} manifest does-not-list-it", file=open("want", "a"))
PY
    run -0 tfrec-convert --check raw.tfrecord png.tfrecord jpeg.tfrecord
    assert_output "$(cat want)"
}

@test "tfrec-convert --check: grey, palette, 16-bit and transparent PNGs, grey and CMYK JPEGs have the channels they show" {
    "$PYTHON" - <<'PY'
import io, numpy as np, tfrecord
from PIL import Image
grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
rgb = np.stack([grey, 255 - grey, grey.T], 2)
def save(name, image, kind, **options):
    f = io.BytesIO()
    image.save(f, kind, **options)
    features = {"image/encoded": f.getvalue(), "image/class/label": 0}
    open(name + ".tfrecord", "wb").write(tfrecord.frame(tfrecord.pack(features)))
save("grey", Image.fromarray(grey), "PNG")
save("bits", Image.fromarray(grey > 100), "PNG")
save("deep", Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
save("palette", Image.fromarray(rgb).quantize(16), "PNG")
save("alpha", Image.fromarray(np.dstack([rgb, grey])), "PNG")
save("jgrey", Image.fromarray(grey), "JPEG")
save("cmyk", Image.fromarray(rgb).convert("CMYK"), "JPEG")
PY
    run -0 tfrec-convert --check grey.tfrecord bits.tfrecord deep.tfrecord palette.tfrecord alpha.tfrecord jgrey.tfrecord cmyk.tfrecord
    assert_equal "$(sed 's/:.*shape/:/; s/ labels.*//' <<<"$output")" "grey.tfrecord: 1x8x8
bits.tfrecord: 1x8x8
deep.tfrecord: 1x8x8
palette.tfrecord: 3x8x8
alpha.tfrecord: 4x8x8
jgrey.tfrecord: 1x8x8
cmyk.tfrecord: 3x8x8"
}

# Twelve raw 2x2 grey images with features of every type that nobody asked for.
write_records() {
    "$PYTHON" - <<'PY'
import gzip, tfrecord
frames = []
for i in range(12):
    frames.append(tfrecord.frame(tfrecord.pack({
        "image/filename": b"a%d.png" % i, "image/encoded": bytes([i, 1, 2, 255]), "image/height": 2, "image/width": 2,
        "image/class/label": i % 3, "bbox": [0.5, -1.25], "ids": [7, -8, 9], "none": []})))
open("plain.tfrecord", "wb").write(b"".join(frames))
open("packed.tfrecord", "wb").write(gzip.compress(b"".join(frames)))
for k in range(3):
    open(f"s-{k:05d}-of-00003.tfrecord", "wb").write(b"".join(frames[4 * k : 4 * k + 4]))
    gzip.open(f"z-{k:05d}-of-00003.tfrecord", "wb").write(b"".join(frames[4 * k : 4 * k + 4]))
PY
}

@test "tfrec-convert --check: a gzipped file holds what the plain one does, from a pipe, too" {
    write_records
    run -0 tfrec-convert --check plain.tfrecord packed.tfrecord
    assert_equal "$(sed 's/^[^:]*//' <<<"${lines[0]}")" "$(sed 's/^[^:]*//' <<<"${lines[1]}")"
    assert_output --partial "records 12 shape 1x2x2 labels 0..2 encoded 0"
    run -0 tfrec-convert --check - < <(cat packed.tfrecord)
    assert_output --partial "records 12"
}

@test "tfrec-convert --check: a gzipped file that is cut or damaged anywhere is refused" {
    write_records
    local size at
    size=$(stat -c %s packed.tfrecord)
    for ((at = 3; at < size; at += 17)); do
        head -c $at packed.tfrecord >cut.tfrecord
        run --separate-stderr tfrec-convert --check cut.tfrecord
        assert_refused
        [[ "$stderr" == "tfrec-convert: cut.tfrecord: "* ]]
    done
    for at in 20 $((size / 2)) $((size - 6)) $((size - 2)); do
        cp packed.tfrecord bad.tfrecord
        printf '\x5a' | dd of=bad.tfrecord bs=1 seek="$at" conv=notrunc status=none
        run --separate-stderr tfrec-convert --check bad.tfrecord
        assert_refused
    done
}

@test "tfrec-convert --check: a wrong check sum names the file, the record and its place" {
    write_records
    local record=$(($(od -An -t u8 -N 8 plain.tfrecord) + 16))
    cp plain.tfrecord bad.tfrecord
    printf '\xff' | dd of=bad.tfrecord bs=1 seek=$((3 * record + 40)) conv=notrunc status=none
    run --separate-stderr tfrec-convert --check bad.tfrecord
    assert_refused
    [[ "$stderr" == "tfrec-convert: bad.tfrecord: record 3 at byte $((3 * record)): check sum of the data is "* ]] || fail "$stderr"
    run --separate-stderr tfrec-convert --dump bad.tfrecord
    assert_refused
    assert_equal "$(wc -l <<<"$output")" 3
    gzip -c bad.tfrecord >zipped.tfrecord
    run --separate-stderr tfrec-convert --check zipped.tfrecord
    [[ "$stderr" == "tfrec-convert: zipped.tfrecord: record 3 at byte $((3 * record)): check sum of the data is "* ]] || fail "$stderr"
}

@test "tfrec-convert --check: the manifest beside a file vouches for it, and notices a cut between records" {
    "$PYTHON" -c 'import struct
open("train-images-idx3-ubyte", "wb").write(struct.pack(">IIII", 0x803, 20, 3, 2) + bytes(120))
open("train-labels-idx1-ubyte", "wb").write(struct.pack(">II", 0x801, 20) + bytes(i % 2 for i in range(20)))'
    cp train-images-idx3-ubyte t10k-images-idx3-ubyte
    cp train-labels-idx1-ubyte t10k-labels-idx1-ubyte
    tfrec-convert -q --set idx -o out .
    run -0 tfrec-convert --check out/train.tfrecord out/rest.tfrecord
    assert_equal "$(grep -c 'manifest agrees$' <<<"$output")" 2
    local record=$(($(od -An -t u8 -N 8 out/train.tfrecord) + 16))
    head -c $((19 * record)) out/train.tfrecord >cut
    mv cut out/train.tfrecord
    run --separate-stderr tfrec-convert --check out/train.tfrecord
    assert_refused
    assert_equal "$stderr" "tfrec-convert: out/train.tfrecord: holds 19 images, manifest.json beside it lists 20"
}

@test "tfrec-convert --dump: every feature of every record is shown, numbers and short texts as they are" {
    write_records
    run -0 tfrec-convert --dump plain.tfrecord packed.tfrecord
    "$PYTHON" - "$output" <<'PY'
import hashlib, json, sys
lines = [json.loads(line) for line in sys.argv[1].splitlines()]
assert len(lines) == 24 and lines[:12] == lines[12:]
for i, line in enumerate(lines[:12]):
    pixels = bytes([i, 1, 2, 255])
    assert line["record"] == i and line["offset"] == sum(x["bytes"] + 16 for x in lines[:i])
    assert line["features"] == {
        "image/filename": ["a%d.png" % i], "image/height": [2], "image/width": [2], "image/class/label": [i % 3],
        "image/encoded": [{"bytes": 4, "begins": pixels.hex(), "sha256": hashlib.sha256(pixels).hexdigest()}],
        "bbox": [0.5, -1.25], "ids": [7, -8, 9], "none": []}, line
PY
}

@test "tfrec-convert --check and --dump: wrong usage is status 2, a file of another kind is status 1" {
    write_records
    for args in "--check" "--dump" "--check --dump plain.tfrecord" "--check -o out plain.tfrecord" "plain.tfrecord"; do
        run -2 --separate-stderr tfrec-convert $args
        [[ "$stderr" == *"Try 'tfrec-convert --help'."* ]]
    done
    echo "this is no tfrecord file" >text
    run --separate-stderr tfrec-convert --check text
    assert_refused
    [[ "$stderr" == "tfrec-convert: text: record 0 at byte 0: "*"not a tfrecord file, or damaged" ]]
    run --separate-stderr tfrec-convert --dump plain.tfrecord missing.tfrecord
    assert_refused
    assert_equal "$stderr" "tfrec-convert: missing.tfrecord: No such file or directory"
    run -1 bash -c 'tfrec-convert --dump plain.tfrecord >/dev/full'
}

@test "adveval: a network sees the same images in plain, gzipped and sharded files, raw or PNG" {
    write_records
    "$PYTHON" - <<'PY'
import io, numpy as np, tfrecord
from PIL import Image
rng = np.random.default_rng(3)
with open("raw.tfrecord", "wb") as raw, open("png.tfrecord", "wb") as png:
    for i in range(6):
        image = rng.integers(0, 256, (28, 28), np.uint8)
        f = io.BytesIO()
        Image.fromarray(image).save(f, "PNG")
        for out, data in (raw, image.tobytes()), (png, f.getvalue()):
            out.write(tfrecord.frame(tfrecord.pack({"image/encoded": data, "image/class/label": i, "image/height": 28, "image/width": 28})))
PY
    gzip -c png.tfrecord >zip.tfrecord
    local record=$(($(od -An -t u8 -N 8 raw.tfrecord) + 16))
    head -c $((2 * record)) raw.tfrecord >sh-00000-of-00002.tfrecord
    tail -c +$((2 * record + 1)) raw.tfrecord | gzip >sh-00001-of-00002.tfrecord
    advtrain -q --arch resS -d raw.tfrecord --classes 10 --loss natural --epochs 1 --batch 6 -o net.nn
    for f in raw png zip sh; do
        adveval -q -d $f.tfrecord --data-name X --attacks clean,fgsm --eps 0.1 -o $f.json net.nn
        cmp raw.json $f.json
    done
}
