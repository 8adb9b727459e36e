# maskapply --audit: which strategies of a file keep their budget, and in which order of layers they were written.
setup() {
    load ../helpers
    MKNN=$(dirname "$BIN")/test/mknn
}

# audited FILE...: audits of published files, in audit-FILE; or the test is skipped
audited() {
    local name dir=${REFERENCE:-$ROOT/../shared/reference}/strategies
    [ -d "$dir" ] || skip "the published strategies are not here ($dir); REFERENCE=DIR names the directory that holds them"
    for name; do
        maskapply --audit "$dir/$name" >"audit-${name//\//-}"
    done
}

# published STRATEGY COLUMN FILE: one field of an audit
published() {
    awk -F '\t' -v s="$1" -v c="$2" 'NR == 1 { for (i = 1; i <= NF; i++) n[$i] = i } $1 == s { print $n[c] }' \
        "audit-${3//\//-}"
}

@test "maskapply --audit: the published CIFAR-10 strategies cost what the paper's search counted" {
    local i file=heracles/CIFAR10.json
    audited $file
    for i in 0 1 2 3 4; do
        # the search's budgets: 0.25007 and 0.01 of the parameters (ALG 6.3)
        awk -v x="$(published vgg16_bn/channel/05_$i published $file)" 'BEGIN { exit !(x >= 0.2382 && x <= 0.2502) }'
        awk -v x="$(published resnet18/channel/05_$i published $file)" 'BEGIN { exit !(x >= 0.2382 && x <= 0.2503) }'
        awk -v x="$(published wrn_28_4/channel/05_$i published $file)" 'BEGIN { exit !(x >= 0.2382 && x <= 0.2502) }'
        assert_equal "$(published vgg16_bn/weight/001_$i published $file)" 0.01
        assert_equal "$(published vgg16_bn/weight/001_$i verdict $file)" ok
    done
    # what masks really leave of channel strategies is far more
    awk -v x="$(published resnet18/channel/05_3 masked $file)" 'BEGIN { exit !(x > 0.5) }'
    assert_equal "$(published resnet18/channel/05_0 allowed $file)" 0.250153
    assert_equal "$(published resnet18/channel/05_0 verdict $file)" exceeds # its shortcuts were not counted
}

@test "maskapply --audit: two published strategies break their budget because their layers stand in PyTorch's order" {
    local file=heracles/CIFAR10.json
    audited $file harp/strategies.json hydra-nonuniform/CIFAR10.json
    assert_equal "$(published resnet18/weight/010_0 published $file)" 0.174766
    assert_equal "$(published resnet18/weight/010_0 order $file)" torch
    assert_equal "$(published resnet18/weight/010_0 masked $file)" 0.09617
    assert_equal "$(published resnet18/weight/001_0 published $file)" 0.0105497
    assert_equal "$(published resnet18/weight/001_0 order $file)" torch
    assert_equal "$(published resnet18/weight/001_0 masked $file)" 0.01
    assert_equal "$(published resnet18/weight/001_1 order $file)" strategy
    assert_equal "$(published resnet18/weight/001_uni verdict $file)" exceeds # it has one 0.1
    assert_equal "$(published vgg16_bn/weight/001_0 order $file)" - # no shortcuts, one order
    # HARP's lists are in strategy order (ALG 10, Q48); HYDRA's later ones are not
    assert_equal "$(published resnet18/weight/010_erk order harp/strategies.json)" strategy
    assert_equal "$(published resnet18/weight/001_erk order hydra-nonuniform/CIFAR10.json)" torch
}

@test "maskapply: a list in PyTorch's order is read as ID@torch, and keeps its budget then" {
    local file=${REFERENCE:-$ROOT/../shared/reference}/strategies/heracles/CIFAR10.json
    audited heracles/CIFAR10.json
    "$MKNN" resnet18 1 net.nn
    run --separate-stderr maskapply -q --plan -s "$file:resnet18/weight/001_0" -o a.nn net.nn
    assert_refused a.nn
    run --separate-stderr maskapply --plan -s "$file:resnet18/weight/001_0@torch" --report a.json -o a.nn net.nn
    assert_success
    assert_regex "$stderr" "001_0@torch weight inout asked 0.01 kept 0.01"
    # torch's fifth, sixth and seventh entries are layer2.0's conv1, conv2 and shortcut; ours begin with the shortcut
    run python3 - "$file" <<'P'
import json, sys
rates = json.load(open(sys.argv[1]))["resnet18"]["weight"]["001_0"]
kept = {l["name"]: l["kept"] / l["of"] for l in json.load(open("a.json"))["layers"]}
names = ["layer2.0.conv1", "layer2.0.conv2"]
shortcut = [n for n in kept if n.startswith("layer2.0.") and n not in names]
for name, rate in zip(names + shortcut, rates[5:8]):
    assert abs(kept[name] - rate) < 1e-4, (name, kept[name], rate)
P
    assert_success
    run --separate-stderr maskapply -q -r channel -s "$file:resnet18/channel/05_0@torch" -o b.nn net.nn
    assert_refused b.nn
    assert_regex "$stderr" "@torch is for bare lists of weight rates"
}

@test "maskapply --audit: every published file is read to the end" {
    local file
    for file in heracles/CIFAR10.json heracles/SVHN.json heracles/imagenet.json harp/strategies.json; do
        audited $file
        run ! grep -vE $'\t(ok|below|exceeds|no claim|verdict)$' "audit-${file//\//-}"
    done
}

@test "maskapply --audit: our own entries, with names, are held against what they claim" {
    "$MKNN" resS 1 net.nn
    maskapply -q --plan -s erk:0.1 --label erk:0.1 --strategy-out ours.json -o /dev/null net.nn
    run --separate-stderr maskapply --audit ours.json
    assert_success
    assert_equal "$stderr" ""
    assert_line --index 0 $'strategy\trates\torder\tclaim\tallowed\tpublished\tinout\tmasked\tmacs\tverdict'
    assert_line --index 1 --regexp $'^resS/weight/erk:0.1\t[0-9]+\t-\t0.1\t0.1\t.*\tok$'
    maskapply -q --audit -o table ours.json
    assert_equal "$(cat table)" "$output"
    sed 's/"target": 0.1/"target": 0.05/; s/"erk:0.1"/"mine"/' ours.json >less.json
    run maskapply --audit less.json
    assert_success
    assert_line --index 1 --regexp $'\texceeds$'
}

@test "maskapply --audit: entries that are none are named in their row, files that are none are refused" {
    cat >odd.json <<'X'
{"vgg16_bn": {"weight": {"010_0": [0.1, 0.1], "010_1": 7, "010_2": {}, "tab\there": [], "010_3":
[2,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}, "filter": {"a": [1]}, "channel": [3]}, "lenet": {"weight": {"05_0": [1]}}, "x": 3}
X
    run --separate-stderr maskapply --audit odd.json
    assert_success
    assert_equal "$stderr" ""
    assert_equal "${#lines[@]}" 8
    assert_line --regexp $'^vgg16_bn/weight/010_0\t2\t.*holds 2 rates, the network has 16'
    assert_line --regexp $'^vgg16_bn/weight/tab.here\t0\t'
    assert_line --regexp $'^vgg16_bn/filter/a\t.*neither weight nor channel'
    assert_line --regexp $'^lenet/weight/05_0\t.*no such architecture'
    assert_equal "$(awk -F '\t' '{ print NF }' <<<"$output" | sort -u)" 10
    local text
    for text in '[]' '{}' '3' '{' ''; do
        printf '%s' "$text" >bad.json
        run --separate-stderr maskapply --audit -o out bad.json
        assert_refused out
        [[ "$stderr" == "maskapply: bad.json: "* ]]
    done
    run --separate-stderr maskapply --audit -o out missing.json
    assert_refused out
    run --separate-stderr maskapply --audit -s uniform:0.1 odd.json
    assert_equal "$status" 2
}
