# test/cli/ddpg-search.bats -- a whole search through the real tool and the real protocol.
# The evaluator's optimum is found by trying everything in test_search_ddpg.c, which has the same chain.

setup_file() {
    export TOY=$BATS_TEST_DIRNAME/toy_evaluator.py
}

setup() {
    load ../helpers
    need_python json
    "$PYTHON" "$TOY" table >layers.json
}

# Small networks and few episodes where only the plumbing is tested.
search() {
    ddpg-search -q --layers layers.json --target 0.3 --hidden 16 --batch 16 --warmup 6 --episodes 6 \
        --train-iters 2 --evaluator "$PYTHON $TOY serve" "$@"
}

# ask FILE EXPRESSION: a Python expression over the file's document d and its first entry e.
ask() {
    "$PYTHON" -c 'import json, sys
d = json.load(open(sys.argv[1]))
reg = next(iter(d["chain"].values()))
print(eval(sys.argv[2], {"d": d, "e": next(iter(reg.values()))}))' "$@"
}

@test "ddpg-search: one seed through the protocol reaches 95 % of the known optimum" {
    # 0.95 of 0.8560, the optimum by trying every strategy
    ddpg-search -q -l layers.json -e "$PYTHON $TOY serve" -t 0.3 --lb 0.05 --ub 0.9 --warmup 100 --episodes 300 \
        --hidden 48 --batch 48 --seed 1 -o s.json
    assert_equal "$(ask s.json 'e["reward"] >= 0.813 and e["budget"]["inout"] <= 0.3')" True
}

@test "ddpg-search: the strategy file names layers, rates, kept counts, budgets and its history" {
    search --id search-7 --seed 7 -o s.json
    assert_equal "$(ask s.json 'list(d["chain"]["weight"])')" "['search-7']"
    assert_equal "$(ask s.json '" ".join(e["layers"])')" "fc0 fc1 fc2 fc3 fc4 fc5 fc6"
    assert_equal "$(ask s.json 'sum(e["kept"])')" 45
    assert_equal "$(ask s.json 'e["budget"]')" "{'target': 0.3, 'inout': 0.3, 'masked': 0.3, 'macs': 0.3}"
    assert_equal "$(ask s.json 'all(abs(k / n - r) < 1e-12
        for k, n, r in zip(e["kept"], [12, 16, 24, 36, 32, 20, 10], e["rates"]))')" True
    assert_equal "$(ask s.json '[e["history"][k] for k in ("tool", "version")][0]')" ddpg-search
    assert_equal "$(ask s.json '[e["history"]["options"][k] for k in ("seed", "lb", "ub", "action", "init")]')" \
        "[7, 0.01, 0.8, 'log', 'fanin']"
    assert_equal "$(ask s.json 'e["history"]["inputs"][1]["sha256"]')" 5eed
}

@test "ddpg-search: the tables have one header and a row per episode, the best never falls" {
    search -o s.json --csv-dir out
    run head -1 out/Episode_wise_Rewards.csv
    assert_output "$(printf 'Iter\tIter_reward\tEstimate_Reduction\tBng_Acc\tAdv_Acc\torg_ops\tnew_ops\titer_strategy')"
    run head -1 out/Best_Rewards.csv
    assert_output "$(printf 'Iter\tBest_reward\tEstimate_Reduction\tBng_Acc\tAdv_Acc\torg_ops\tnew_ops\tbest_strategy')"
    run awk -F'\t' 'NR > 1 { if (NF != 8 || $1 != NR - 1 || $6 != 150 || $7 > 45 || $2 - $4 - $5 > 2e-6 ||
        $8 !~ /^\[0?\.?[0-9., e-]*\]$/) exit 1 } END { print NR }' out/Episode_wise_Rewards.csv
    assert_success
    assert_output 13
    run awk -F'\t' 'NR > 1 { if ($2 < best) exit 1; best = $2 } END { print NR, best + 0 }' out/Best_Rewards.csv
    assert_success
    assert_output "13 $(ask s.json 'e["reward"]')"
    # the strategy may stand in the directory that is made for the tables
    search -o new/s.json --csv-dir new
    cmp s.json new/s.json
    # the search again: the tables are new, not longer
    search -o s.json --csv-dir out
    assert_equal "$(wc -l <out/Best_Rewards.csv)" 13
}

@test "ddpg-search: same seed, same bytes, another seed others; the number of threads does not matter" {
    search --seed 5 -o a.json --csv-dir a
    OMP_NUM_THREADS=4 OPENBLAS_NUM_THREADS=4 search --seed 5 -o b.json --csv-dir b
    search --seed 6 -o c.json --csv-dir c
    cmp a.json b.json
    cmp a/Episode_wise_Rewards.csv b/Episode_wise_Rewards.csv
    cmp a/Best_Rewards.csv b/Best_Rewards.csv
    run cmp -s a/Episode_wise_Rewards.csv c/Episode_wise_Rewards.csv
    assert_failure 1
}

@test "ddpg-search: the strategy goes to standard output, words to standard error" {
    run --separate-stderr search
    assert_success
    echo "$output" >out.json
    assert_equal "$(ask out.json 'sum(e["kept"])')" 45
    assert_equal "$stderr" ""
    run --separate-stderr ddpg-search -l layers.json -t 0.3 --hidden 4 --batch 4 --warmup 10 --episodes 2 \
        -e "$PYTHON $TOY serve" -o s.json
    assert_success
    assert_equal "$output" ""
    assert_regex "${stderr_lines[0]}" '^ddpg-search: episode 10/12 warm-up reward 0\.[0-9]+ best 0\.[0-9]+ kept 0\.3000$'
    assert_regex "${stderr_lines[1]}" '^ddpg-search: episode 12/12 reward'
}

@test "ddpg-search: --reference has its own defaults; linear actions use the budget up, too" {
    search --reference --target 0.3 -o ref.json
    assert_equal "$(ask ref.json '[e["history"]["options"][k] for k in ("action", "init")]')" "['linear', 'normal']"
    search --action linear --reward acc_aa --no-baseline -o lin.json
    assert_equal "$(ask lin.json 'sum(e["kept"])')" 45
}

@test "ddpg-search: networks that answer every image alike are worth nothing and are reported" {
    run --separate-stderr search -e "$PYTHON $TOY serve constant" -o s.json
    assert_success
    assert_equal "$(ask s.json 'e["reward"] == 0')" True
    assert_regex "$stderr" "12 strategies made the network answer every image alike"
    assert_regex "$stderr" "near chance"
    search -e "$PYTHON $TOY serve constant" --reference -o s.json 2>/dev/null
    assert_equal "$(ask s.json 'e["reward"] == 0.2')" True
}

@test "ddpg-search: an evaluator that dies once is started again and the result is the same" {
    search -o a.json
    run --separate-stderr search -e "$PYTHON $TOY serve once:flag" -o b.json
    assert_success
    assert_equal "$stderr" "ddpg-search: warning: the evaluator died and was started again"
    cmp a.json b.json
}

@test "ddpg-search: the curve of rewards has a dot per episode and rises with the best" {
    need_python json xml.etree
    search -o s.json --csv-dir out
    "$PYTHON" - <<'P'
import re
import xml.etree.ElementTree as xml
svg = "{http://www.w3.org/2000/svg}"
root = xml.parse("out/rewards.svg").getroot()
rows = [line.split("\t") for line in open("out/Episode_wise_Rewards.csv")][1:]
dots = [c for g in root.iter(svg + "g") if g.get("class") == "episodes" for c in g]
assert len(dots) == len(rows) == 12, len(dots)
# the higher the reward, the higher the dot; x grows with the episode
at = sorted((float(r[1]), -float(d.get("cy"))) for r, d in zip(rows, dots))
assert [y for _, y in at] == sorted(y for _, y in at)
assert [float(d.get("cx")) for d in dots] == sorted(float(d.get("cx")) for d in dots)
assert len({d.get("fill") for d in dots[:6]}) == len({d.get("fill") for d in dots[6:]}) == 1
assert dots[0].get("fill") != dots[-1].get("fill")
best = next(p for p in root.iter(svg + "path") if p.get("class") == "best").get("d")
heights = [float(y) for y in re.findall(r"V([0-9.]+)", best)]
assert heights == sorted(heights, reverse=True)
assert abs(heights[-1] - min(float(d.get("cy")) for d in dots)) < 0.02
P
}

@test "ddpg-search: on a terminal one line shows episode, reward, best, budget and the time to come" {
    need_python json pty
    "$PYTHON" - <<'P' >terminal
import os, pty, shlex, sys
command = "ddpg-search -l layers.json -t 0.3 --hidden 4 --batch 4 --warmup 4 --episodes 4 -o s.json -e"
toy = "%s %s serve slow:120" % (os.environ["PYTHON"], os.environ["TOY"])
sys.exit(os.waitstatus_to_exitcode(pty.spawn(shlex.split(command) + [toy])))
P
    assert_file_contains terminal 'search \[#*\.*\] 5/8 [0-9.]*/s eta [0-9]* s  reward 0\.[0-9]* best 0\.[0-9]* kept 0\.3000 of 0\.3000'
}

@test "ddpg-search: the warm-up begins with the strategies that it is given, brought to the budget" {
    # rates of 45 weights in all; of 51, in another order; a published list of 45
    echo '{"chain":{"weight":{"a":{"layers":["fc0","fc1","fc2","fc3","fc4","fc5","fc6"],
        "rates":[0.5,0.25,0.25,0.25,0.25,0.35,0.5]}}}}' >a.json
    echo '{"chain":{"weight":{"b":{"layers":["fc6","fc5","fc4","fc3","fc2","fc1","fc0"],
        "rates":[0.8,0.55,0.5,0.0278,0.0417,0.375,0.75]}}}}' >b.json
    echo '{"chain":{"weight":{"01_0":[0.5,0.25,0.25,0.25,0.25,0.35,0.5]}}}' >c.json
    search --start a.json --start b.json --start c.json -o s.json --csv-dir out
    run awk -F'\t' 'NR > 1 && NR < 5 { print $8 }' out/Episode_wise_Rewards.csv
    assert_equal "${lines[0]}" "[0.5, 0.25, 0.25, 0.25, 0.25, 0.35, 0.5]"
    assert_equal "${lines[2]}" "${lines[0]}"
    assert_equal "$("$PYTHON" -c 'import sys
r = eval(sys.argv[1])
print(sum(round(n * x) for n, x in zip([12, 16, 24, 36, 32, 20, 10], r)), r[0] > r[1] > r[2] and r[6] > r[5] > r[4] > r[3])' \
        "${lines[1]}")" "45 True"
    assert_equal "$(ask s.json '[i["role"] for i in e["history"]["inputs"]]')" "['layers', 'start', 'start', 'start', 'evaluator']"
    # what is no strategy of these layers is refused
    echo '{"chain":{"channel":{"a":[0.5]}}}' >reg.json
    echo '{"chain":{"weight":{"a":[0.5]}}}' >short.json
    echo '{"chain":{"weight":{"a":[0.5],"b":[0.5]}}}' >two.json
    sed 's/fc3/fc2/' a.json >twice.json
    sed 's/fc3/fc9/' a.json >other.json
    sed 's/0.35/1.35/' a.json >big.json
    local f
    for f in reg short two twice other big missing; do
        run --separate-stderr search --start $f.json -o t.json
        assert_refused t.json
        assert_regex "$stderr" "^ddpg-search: $f.json: "
    done
    run --separate-stderr search --start a.json --reference
    assert_equal "$status" 2
}
