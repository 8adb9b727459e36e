# test/pipeline/data.bats -- make data/CIFAR10 and its like: archives from a directory or fetched, verified, converted.

setup() {
    load ../helpers
    load ../archives
    mkdir here there
    # The targets' recipes run in the repository; what they make lies here. A file:// URL is curl's, resuming and all.
    make_data() { # make_data SET [NAME=VALUE]...
        make -s -C "$ROOT" BUILD="$(dirname "$BIN")" TOOLS_READY=1 "data/$1" DATA="$PWD/data" ARCHIVES="$PWD/here" RUNS="$PWD/runs" \
            CIFAR10_URL="file://$PWD/there" SVHN_URL="file://$PWD/there" "${@:2}"
    }
}

@test "make data/CIFAR10: the archive in ARCHIVES is converted, and is not fetched; CHECKSUM=skip is on record" {
    archive cifar10-binary here/cifar-10-binary.tar.gz 250 60
    run make_data CIFAR10 CHECKSUM=skip
    assert_success
    refute_output --partial "file://"
    convert cifar10 want here/cifar-10-binary.tar.gz
    diff want data/CIFAR10 --exclude='manifest.json.*'
    grep -q '"checksum": "skip"' data/CIFAR10/manifest.json
}

@test "make data/CIFAR10: the Python version serves as well" {
    archive cifar10-python here/cifar-10-python.tar.gz 250 60
    run make_data CIFAR10 CHECKSUM=skip
    assert_success
    assert_exists data/CIFAR10/rest.tfrecord
}

@test "make data/FashionMNIST: a file with another checksum than the published one makes nothing" {
    local fashion=/usr/share/datasets/fashion-mnist labels=t10k-labels-idx1-ubyte.gz
    [ -e $fashion ] || skip "Debian's dataset-fashion-mnist is not installed"
    ln -s $fashion/* here
    rm here/$labels
    gunzip -c $fashion/$labels | gzip -1 >here/$labels
    run make_data FashionMNIST
    assert_failure
    assert_output --partial "here/$labels: its MD5 is $(md5sum <here/$labels | cut -c 1-32), which is none of the published ones"
    assert_not_exists data/FashionMNIST/manifest.json
    assert_not_exists data/FashionMNIST/train.tfrecord
    run make_data FashionMNIST CHECKSUM=skip
    assert_success
}

@test "make data/SVHN: what is not there is fetched, and a broken transfer goes on where it was" {
    archive svhn there/train_32x32.mat train 300
    archive svhn there/test_32x32.mat t10k 60
    head -c 5000 there/train_32x32.mat >here/train_32x32.mat.part
    cp there/train_32x32.mat whole
    printf 'XXXX' | dd of=there/train_32x32.mat conv=notrunc status=none # these bytes are not fetched again
    run make_data SVHN CHECKSUM=skip
    assert_success
    cmp here/train_32x32.mat whole
    assert_not_exists here/train_32x32.mat.part
    assert_exists data/SVHN/manifest.json
    run make_data SVHN CHECKSUM=skip
    assert_success
    assert_output ""
}

@test "make data/SVHN: without a network the message says which file to put where" {
    run make_data SVHN
    assert_failure
    assert_line --partial "train_32x32.mat is missing: get it from file://$PWD/there/train_32x32.mat and put it into $PWD/here"
    assert_equal "${#lines[@]}" 4 # what was tried, curl's reason, ours, make's
    assert_equal "$(ls here)" ""
    assert_not_exists data/SVHN/manifest.json
    head -c 5000 /dev/zero >here/train_32x32.mat.part # nor is what had come lost
    run make_data SVHN
    assert_failure
    assert_line "fetch: 5000 bytes of train_32x32.mat have come; the same command goes on from there"
    assert_equal "$(stat -c %s here/*)" 5000
}

@test "make data/ImageNet: says where its archives can be had and where to put them, and then which labels it needs" {
    run make_data ImageNet
    assert_failure
    assert_line "ILSVRC2012_img_train.tar is missing: ImageNet can be had with an account at https://image-net.org/download-images; put it into $PWD/here, or say where it is: make ARCHIVES=DIR"
    touch here/ILSVRC2012_img_{train,val}.tar
    run make_data ImageNet
    assert_failure
    assert_line --partial "ILSVRC2012_val_labels.txt is missing: the class (n01440764, ...) of each validation image"
    assert_not_exists data/ImageNet/manifest.json
}

@test "make models: the published checkpoints are fetched and converted, under whichever name they go" {
    need_python zipfile
    local name names=(vgg16_bn_pretrain_cifar10.pth.tar resnet18_pretrain_cifar10.pth.tar wrn284_pretrain_cifar10.pth.tar
        vgg16_bn_pretrain_svhn.pth.tar resnet18_pretrain_svhn.pth.tar wrn_28_4_pretrain_svhn.pth.tar resnet50_pretrain_imagenet.tar)
    "$(dirname "$BIN")/test/mknn" resS:3x32x32 1 net.nn # stands in for all of them
    nn2torch -q --bare -o net.pth net.nn # as PyTorch writes them
    "$PYTHON" - "${names[@]}" <<'PY'
import sys, zipfile
with zipfile.ZipFile("there/torch-models.zip", "w") as z:
    for name in sys.argv[1:]:
        z.write("net.pth", ("" if name.startswith("vgg") else "torch-models/") + name)
PY
    make_models() {
        make -s -C "$ROOT" BUILD="$(dirname "$BIN")" TOOLS_READY=1 models MODELS="$PWD/models" ARCHIVES="$PWD/here" \
            RUNS="$PWD/runs" DATA="$PWD/data" MODELS_URL="file://$PWD/there/torch-models.zip"
    }
    digests() { nninfo --tensors "$1" | awk '{ print $1, $NF }' | sort; }
    run make_models
    assert_success
    for name in CIFAR10/{vgg16_bn,resnet18,wrn_28_4} SVHN/{vgg16_bn,resnet18,wrn_28_4} ImageNet/ResNet50; do
        assert_equal "$(comm -23 <(digests net.nn) <(digests models/$name.nn))" "" # num_batches_tracked stays beside them
    done
    run nninfo models/ImageNet/ResNet50.nn
    assert_line --index 0 --partial ", normalised by mean 0.485,0.456,0.406 and std 0.229,0.224,0.225"
    run make_models
    assert_success
    assert_output ""
}

@test "make models: without a network the message says which file to put where" {
    run make -s -C "$ROOT" BUILD="$(dirname "$BIN")" TOOLS_READY=1 models MODELS="$PWD/models" ARCHIVES="$PWD/here" \
        DATA="$PWD/data" RUNS="$PWD/runs" MODELS_URL="file://$PWD/there/torch-models.zip"
    assert_failure
    assert_output --partial "torch-models.zip is missing: get it from file://$PWD/there/torch-models.zip and put it into $PWD/here"
    assert_not_exists models/CIFAR10/resnet18.nn
}
