# test/long/tensorflow.bats -- TensorFlow reads our tfrecords, and we read those that TensorFlow writes: plain, gzipped,
# sharded, with JPEG and PNG images and features that we do not know. TensorFlow comes from PyPI, into an environment
# that is kept in build/tensorflow (TENSORFLOW=DIR for another one).

setup_file() {
    local root
    root=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    export TF=${TENSORFLOW:-$root/build/tensorflow}
    [ -x "$TF/bin/python" ] || python3 -m venv "$TF"
    "$TF/bin/python" -c 'import tensorflow' 2>/dev/null || "$TF/bin/pip" install -q tensorflow-cpu >&2 || true
}

setup() {
    load ../helpers
    load ../archives
    export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=
    "$TF/bin/python" -c 'import tensorflow' 2>/dev/null || skip "TensorFlow cannot be had here"
}

@test "TensorFlow reads our CIFAR-10 and our ImageNet shards: the same images and labels" {
    archive cifar10-binary a.tar.gz 250 60
    convert cifar10 cifar a.tar.gz
    archive imagenet src 3 15 12
    convert imagenet imagenet src --labels src/val.txt --side 32 --shards 3
    PYTHONPATH=$ROOT/test "$TF/bin/python" - <<'PY'
import glob, numpy as np, tensorflow as tf, tfrecord
keys = {"image/encoded": tf.io.FixedLenFeature([], tf.string), "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/height": tf.io.FixedLenFeature([], tf.int64), "image/width": tf.io.FixedLenFeature([], tf.int64),
        "image/format": tf.io.FixedLenFeature([], tf.string)}
total = 0
for files in (["cifar/train.tfrecord"], ["cifar/holdout.tfrecord"], sorted(glob.glob("imagenet/rest-*"))):
    mine = [tfrecord.example(r) for f in files for r in tfrecord.records(f)]
    for e, record in zip(mine, tf.data.TFRecordDataset(files), strict=True):
        t = tf.io.parse_single_example(record, keys)
        image = tf.reshape(tf.io.decode_raw(t["image/encoded"], tf.uint8), (t["image/height"], t["image/width"], 3))
        assert image.shape == (32, 32, 3) and image.numpy().tobytes() == e["image/encoded"]
        assert t["image/class/label"].numpy() == e["image/class/label"] and t["image/format"].numpy() == b"raw"
        total += 1
assert total == 250 + 20 + 6, total
PY
}

@test "we read what TensorFlow writes: plain, gzipped and sharded; raw, PNG and JPEG; features that nobody asked for" {
    "$TF/bin/python" - <<'PY'
import hashlib, struct, numpy as np, tensorflow as tf
rng = np.random.default_rng(0)
images = tf.cast(tf.image.resize(rng.integers(0, 256, (9, 5, 5, 3)), (24, 20), "bicubic"), tf.int32)
images = np.clip(images.numpy(), 0, 255).astype(np.uint8)
b = lambda *v: tf.train.Feature(bytes_list=tf.train.BytesList(value=v))
n = lambda *v: tf.train.Feature(int64_list=tf.train.Int64List(value=v))
f = lambda *v: tf.train.Feature(float_list=tf.train.FloatList(value=v))
def example(i, data, sized):
    features = {"image/encoded": b(data), "image/class/label": n(i % 4), "image/filename": b(b"x%d" % i, b"y"),
                "image/object/bbox/xmin": f(0.25, 0.5), "ids": n(), "image/colorspace": b("RGB".encode())}
    if sized:
        features |= {"image/height": n(24), "image/width": n(20)}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
encoders = {"raw": lambda x: x.tobytes(), "png": lambda x: tf.io.encode_png(x).numpy(),
            "jpeg": lambda x: tf.io.encode_jpeg(x, quality=92).numpy()}
want = open("want", "w")
for kind, encode in encoders.items():
    data = [encode(x) for x in images]
    pixels = images if kind != "jpeg" else [tf.io.decode_jpeg(d, dct_method="INTEGER_ACCURATE").numpy() for d in data]
    sha = hashlib.sha256(b"".join(p.tobytes() for p in pixels) + struct.pack("<9I", *(i % 4 for i in range(9))) + b"9 24 20 3\n")
    for packing in "", "GZIP":
        name = f"{kind}{packing}.tfrecord"
        with tf.io.TFRecordWriter(name, packing) as w:
            for i, d in enumerate(data):
                w.write(example(i, d, kind == "raw" or packing == ""))
        print(f"{name}: records 9 shape 3x24x20 labels 0..3 encoded {9 * (kind != 'raw')} digest {sha.hexdigest()} "
              "manifest does-not-list-it", file=want)
        for k in range(3):
            with tf.io.TFRecordWriter(f"{kind}{packing}s-{k:05d}-of-00003.tfrecord", packing) as w:
                for i in range(3 * k, 3 * k + 3):
                    w.write(example(i, data[i], True))
PY
    run -0 tfrec-convert --check {raw,png,jpeg}{,GZIP}.tfrecord
    assert_output "$(cat want)"
    run -0 tfrec-convert --dump rawGZIP.tfrecord
    assert_line --index 4 --partial '"image/filename":["x4","y"]'
    assert_line --index 4 --partial '"image/object/bbox/xmin":[0.25,0.5]'
    # the shards together are the same data set for a network, too
    advtrain -q --arch vgg2 -d raw.tfrecord --classes 4 --loss natural --epochs 1 --batch 3 -o net.nn
    local f
    for f in raw rawGZIP raws rawGZIPs png pngGZIPs; do
        adveval -q -d $f.tfrecord --data-name X --attacks clean -o $f.json net.nn
        cmp raw.json $f.json
    done
}

@test "a record that TensorFlow refuses is refused by us, and the other way round" {
    "$TF/bin/python" - <<'PY'
import tensorflow as tf
e = tf.train.Example(features=tf.train.Features(feature={
    "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(12)])),
    "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
    "image/height": tf.train.Feature(int64_list=tf.train.Int64List(value=[2])),
    "image/width": tf.train.Feature(int64_list=tf.train.Int64List(value=[2]))})).SerializeToString()
with tf.io.TFRecordWriter("good.tfrecord") as w:
    for _ in range(3):
        w.write(e)
good = open("good.tfrecord", "rb").read()
for at in range(0, len(good), 7):
    bad = bytearray(good)
    bad[at] ^= 0x10
    open(f"bad-{at}.tfrecord", "wb").write(bad)
    try:
        list(tf.data.TFRecordDataset(f"bad-{at}.tfrecord"))
        raise SystemExit(f"TensorFlow takes a flip at {at}")
    except tf.errors.DataLossError:
        pass
PY
    tfrec-convert --check good.tfrecord
    local f
    for f in bad-*.tfrecord; do
        run --separate-stderr tfrec-convert --check "$f"
        assert_refused
        [[ "$stderr" == "tfrec-convert: $f: record "*" at byte "* ]]
    done
}
