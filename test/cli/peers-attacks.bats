# test/cli/peers-attacks.bats -- every attack against itself written again from its paper, in PyTorch and float64
# (test/peers/strong_attacks.py): the same images break. And the points that --save-adv writes, looked at in PyTorch.

# bats file_tags=slow
setup_file() {
    load ../helpers
    load ../fashion
    fashion "$BATS_FILE_TMPDIR" 2000 100
    cd "$BATS_FILE_TMPDIR" || return
    advtrain -q --threads 1 --arch resS -d train.tfrecord --eps 0.1 --step 0.05 --steps 3 --epochs 2 --batch 64 --lr 0.1 \
        --warmup-steps 10 -o net.nn
    nn2torch -q -o net.pth net.nn
}

setup() {
    load ../helpers
    need_python torch numpy
    D=$BATS_FILE_TMPDIR
}

@test "the parts of AutoAttack break the images that they break in PyTorch" {
    adveval -q -d "$D/test.tfrecord" --eps 0.05 --limit 60 --attacks clean,apgd-ce,apgd-dlr,apgd-t,fab-t,square,aa \
        --iterations 15 --queries 60 --targets 2 --outcomes out.tsv -o eval.json "$D/net.nn"
    run "$PYTHON" "$ROOT/test/peers/strong_attacks.py" own 1.7 "$D/net.pth" "$D/test.tfrecord" eval.json out.tsv
    echo "$output"
    assert_success
    # the test can tell attacks apart: neither all images break nor none
    assert_equal "$(python3 -c '
import json
a = {a["name"]: a["correct"] for a in json.load(open("eval.json"))["attacks"]}
print(a["clean"] >= 40, 12 <= a["aa"] <= 42, a["apgd-ce"] < a["square"])')" "True True True"
}

@test "FGSM, PGD with restarts and C&W break the images that they break in PyTorch" {
    adveval -q -d "$D/test.tfrecord" --eps 0.15 --step 0.03 --attacks clean,fgsm,pgd10,cw10 --restarts 3 \
        --outcomes out.tsv -o eval.json "$D/net.nn"
    run "$PYTHON" "$ROOT/test/peers/strong_attacks.py" own 1.0 "$D/net.pth" "$D/test.tfrecord" eval.json out.tsv
    echo "$output"
    assert_success
    assert_equal "$(python3 -c '
import json
a = {a["name"]: a["correct"] for a in json.load(open("eval.json"))["attacks"]}
print(a["clean"] > a["fgsm"] > a["pgd10"] > a["cw10"] > 5)')" "True"
}

@test "points of --save-adv have the classes, balanced and top-5 accuracy in PyTorch that the record gives" {
    adveval -q -d "$D/test.tfrecord" --eps 0.1 --step 0.04 --attacks clean,pgd5 --save-adv adv.tfrecord -o eval.json "$D/net.nn"
    run -0 "$PYTHON" - "$ROOT/test" "$D/net.pth" <<'EOF'
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/peers"]
import tfrecord, torch, torch_nets
record = json.load(open("eval.json"))["attacks"][1]
net = torch_nets.load("resS", sys.argv[2], torch.float64)
points = [tfrecord.example(r) for r in tfrecord.records("adv.tfrecord")]
h, w, c = (points[0]["image/" + k] for k in ("height", "width", "channels"))
x = torch.tensor([p["image/adversarial"] for p in points]).reshape(-1, h, w, c).permute(0, 3, 1, 2)
y, given = (torch.tensor([p["image/class/" + k] for p in points]) for k in ("label", "given"))
with torch.no_grad():
    z = net(x)
def near(name, right):  # two images may stand on the border
    assert abs(record[name] - 100 * float(right)) <= 2, (name, record[name], float(right))
assert len(points) == record["images"] == 100
assert (z.argmax(1) != given).sum() <= 2
right = z.argmax(1) == y
near("accuracy", right.double().mean())
near("balanced", torch.stack([right[y == k].double().mean() for k in y.unique()]).mean())
near("top5", (z.topk(5)[1] == y[:, None]).any(1).double().mean())
assert record["accuracy"] + 10 < record["top5"] < 100, record  # else it says little
EOF
}
