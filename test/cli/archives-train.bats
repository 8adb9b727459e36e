# test/cli/archives-train.bats -- from archives to trained and attacked networks: CIFAR-10, SVHN, ImageNet.

setup() {
    load ../helpers
    load ../archives
    load ../fashion
}

# train_and_attack ARCH DIR NAME: a few seconds of training, one attack
train_and_attack() {
    advtrain -q --arch "$1" -d "$2/rest.tfrecord" --loss pgd --eps 8/255 --step 4/255 --steps 2 --epochs "${4:-1}" --batch 16 \
        --lr 0.05 -o net.nn
    adveval -q -d "$2/test.tfrecord" --data-name "$3" --attacks clean,fgsm --eps 8/255 -o eval.json net.nn
}

@test "CIFAR-10: networks train on rest and are attacked on test, 3x32x32 and 10 classes" {
    archive cifar10-python a.tar.gz 250 60
    convert cifar10 data a.tar.gz
    train_and_attack resS data CIFAR10
    assert_equal "$(pick eval.json "j['data']['name'], j['data']['images'], [a['name'] for a in j['attacks']]")" "('CIFAR10', 60, ['clean', 'fgsm'])"
    run nninfo net.nn
    assert_line --index 0 "resS: input 3x32x32, 10 classes"
}

@test "SVHN: a network that has learnt for a moment is better than chance" {
    mkdir src
    archive svhn src/train_32x32.mat train 1000
    archive svhn src/test_32x32.mat t10k 200
    convert svhn data src
    advtrain -q --threads 1 --arch resS -d data/rest.tfrecord --loss natural --epochs 3 --batch 32 --lr 0.05 --warmup-steps 10 -o net.nn
    adveval -q -d data/test.tfrecord --data-name SVHN --attacks clean -o eval.json net.nn
    # 200 images at 10 %: 20 of them by chance, 31 with a probability of 1 %
    [ "$(pick eval.json "j['attacks'][0]['correct']")" -gt 60 ]
}

@test "ImageNet: shards train a normalised network with the manifest's classes and constants" {
    archive imagenet src 3 18 12
    convert imagenet data src --labels src/val.txt --side 32 --shards 2
    train_and_attack resS data ImageNet
    run nninfo --format json net.nn
    assert_equal "$(pick eval.json "j['data']['images']")" 12
    "$PYTHON" - <<'PY'
import json, subprocess
m = json.load(open("data/manifest.json"))
assert m["normalize"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
header = open("net.nn", "rb").read(4096)
assert b"normalize" in header
PY
    run nninfo net.nn
    assert_line --index 0 "resS: input 3x32x32, 3 classes, normalised by mean 0.485,0.456,0.406 and std 0.229,0.224,0.225"
}

@test "ImageNet: records with JPEG images of several sizes are brought to the network's size as tfrec-convert does it" {
    archive folders src 3 16 9
    tfrec-convert -q --set imagenet --checksum skip --side 32 --shards 1 -o data src
    PYTHONPATH=$ROOT/test "$PYTHON" - <<'PY'
import glob, io, os, tfrecord
from PIL import Image
with open("jpeg.tfrecord", "wb") as f:
    for k, wnid in enumerate(sorted(os.listdir("src/val"))):
        for name in sorted(os.listdir(f"src/val/{wnid}")):
            data = open(f"src/val/{wnid}/{name}", "rb").read()
            if Image.open(io.BytesIO(data)).mode == "L": # decoded to one channel
                out = io.BytesIO()
                Image.open(io.BytesIO(data)).convert("RGB").save(out, "PNG")
                data = out.getvalue()
            f.write(tfrecord.frame(tfrecord.pack({"image/encoded": data, "image/class/label": k})))
PY
    advtrain -q --arch resS -d data/rest.tfrecord --loss natural --epochs 1 --batch 4 -o net.nn
    adveval -q -d data/test.tfrecord --data-name X --attacks clean,fgsm --eps 0.1 -o a.json net.nn
    adveval -q -d jpeg.tfrecord --data-name X --attacks clean,fgsm --eps 0.1 -o b.json net.nn
    cmp a.json b.json
}

@test "advtrain: --mean and --std go before the manifest's, and a wrong manifest is refused" {
    archive imagenet src 3 18 12
    convert imagenet data src --labels src/val.txt --side 32 --shards 1
    advtrain -q --arch resS -d data/rest.tfrecord --loss natural --epochs 1 --batch 16 --mean 0,0,0 --std 1,1,1 -o a.nn
    advtrain -q --arch resS -d data/rest.tfrecord --loss natural --epochs 1 --batch 16 -o b.nn
    run -1 cmp -s a.nn b.nn
    sed -i 's/0.229/-0.229/' data/manifest.json
    run --separate-stderr advtrain --arch resS -d data/rest.tfrecord --epochs 1 -o c.nn
    assert_refused c.nn
    assert_equal "$stderr" "advtrain: data/manifest.json: 'normalize' does not hold 3 means and positive deviations"
}
