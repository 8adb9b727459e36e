# Every tool on its main path under valgrind: no error, no leak. For `make check-long`. valgrind knows no AVX-512, so
# the kernels are those for AVX2; libgomp keeps its threads to the end, which is no leak of ours.
setup_file() {
    load ../helpers
    load ../fashion
    fashion_set 100 50 --epochs 1
}

setup() {
    load ../helpers
    D=$BATS_FILE_TMPDIR
    ATTACK="--eps 0.1 --step 0.05"
}

# checked COMMAND...: it succeeds, and so does valgrind.
checked() {
    valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite "$@"
}

@test "valgrind: tfrec-convert" {
    python3 - <<'END'
import gzip, struct
for name, n in (("train", 30), ("t10k", 20)):
    with gzip.open(f"{name}-images-idx3-ubyte.gz", "wb") as f:
        f.write(struct.pack(">IIII", 0x803, n, 28, 28) + bytes(i * 7 % 256 for i in range(n * 784)))
    with gzip.open(f"{name}-labels-idx1-ubyte.gz", "wb") as f:
        f.write(struct.pack(">II", 0x801, n) + bytes(i % 10 for i in range(n)))
END
    checked tfrec-convert -q --set idx --holdout 0.34 -o out .
}

@test "valgrind: tfrec-convert from CIFAR-10's, SVHN's and ImageNet's archives; --check and --dump" {
    load ../archives
    archive cifar10-python cifar.tar.gz 50 20
    mkdir svhn
    archive svhn svhn/train_32x32.mat train 100
    archive svhn svhn/test_32x32.mat t10k 60
    archive imagenet src 3 14 6
    checked tfrec-convert -q --set cifar10 --checksum skip --holdout-each 1 -o a cifar.tar.gz
    checked tfrec-convert -q --set svhn --checksum skip --holdout-each 1 -o b svhn
    checked tfrec-convert -q --set imagenet --checksum skip --side 32 --shards 2 --labels src/val.txt -o c src
    gzip -k a/test.tfrecord
    checked tfrec-convert --check a/*.tfrecord b/*.tfrecord c/*.tfrecord >check
    checked tfrec-convert --dump a/test.tfrecord.gz >dump
}

@test "valgrind: advtrain pretrain, maskapply, advtrain prune and finetune" {
    TRAIN="advtrain -q --threads 2 -d $D/train.tfrecord --batch 20 --epochs 1 --steps 2 $ATTACK"
    checked $TRAIN --stage pretrain --arch resS --limit 40 -o net.nn
    checked maskapply -q --plan -s erk:0.2 -r weight --strategy-out erk.json -o planned.nn net.nn
    checked $TRAIN --stage prune --limit 40 -o prune.nn planned.nn
    checked $TRAIN --stage finetune --limit 40 --log log.jsonl -o finetune.nn prune.nn
    checked stgplot -q -o plot erk.json
    checked nninfo --history finetune.nn >history.json
}

@test "valgrind: adveval and summarize" {
    checked adveval -q -d $D/test.tfrecord --attacks clean,fgsm,pgd2,cw2 --limit 20 $ATTACK -o eval.json $D/net.nn
    checked summarize -q --csv t.csv --latex t.tex -o t.txt eval.json
    checked summarize --history eval.json >history.txt
}

@test "valgrind: nninfo and ddpg-search with adveval --serve" {
    checked nninfo --format json -o layers.json $D/net.nn
    checked ddpg-search -q -l layers.json -t 0.2 --warmup 2 --episodes 2 --hidden 16 --batch 8 -o s.json --csv-dir . \
        -e "valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite adveval --serve -q -r weight \
            -d $D/test.tfrecord --limit 20 --batch 20 --steps 1 $ATTACK $D/net.nn"
}

@test "valgrind: nn2torch and torch2nn, every layout and container" {
    local layout
    maskapply -q -s uniform:0.5 -o pruned.nn $D/net.nn
    for layout in dense hydra radmm; do
        checked nn2torch -l $layout -o x.pth pruned.nn
        checked torch2nn -q -o x.nn x.pth
    done
    checked nn2torch -o x.safetensors pruned.nn
    checked torch2nn -q -o x.nn x.safetensors
    checked torch2nn -q -o x.nn - <x.pth
    python3 -c 'import zipfile; zipfile.ZipFile("x.zip", "w", zipfile.ZIP_DEFLATED).write("x.pth")'
    checked torch2nn -q -o x.nn x.zip:x.pth
    ! valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite torch2nn -o y.nn x.zip
}
