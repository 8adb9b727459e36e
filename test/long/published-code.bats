# test/long/published-code.bats -- twenty steps of training stages against the published programs' own functions, one at
# a time: test/peers/published_steps.py says which, and how the two are brought to do the same. Checkouts of their
# repositories are looked for in HYDRA_SOURCE and RADMM_SOURCE (git clone https://github.com/inspire-group/hydra,
# https://github.com/yeshaokai/Robustness-Aware-Pruning-ADMM); without them this is skipped, or fails with REQUIRE_PEERS=1.
# The bounds are those of test/cli/peers-steps.bats.

setup() {
    load ../helpers
    need_python torch numpy
    STEPS="${BIN%/bin}/test/peer_steps"
}

# need_source VARIABLE FILE: names a checkout that has FILE
need_source() {
    [ -z "${!1:-}" ] || [ ! -e "${!1}/$2" ] || return 0
    [ "${REQUIRE_PEERS:-0}" != 1 ] || fail "$1 names no checkout with $2"
    skip "$1 names no checkout with $2"
}

# agrees KIND [NOISE]: 20 steps, below 1e-8 in double, below 1e-4 in float
agrees() {
    "$STEPS" problem "$1" | "$PYTHON" "$ROOT/test/peers/published_steps.py" >trace 2>words || { cat words; false; }
    "$STEPS" check "$1" <trace | tee line >&3
    python3 - "${2:-}" <<'P'
import re, sys
kind, rest = open("line").read().split(": ", 1)
got = dict(re.findall(r"(ref|float|noise) ([-+.e0-9]+)", rest))
assert rest.startswith("20 steps, ") and float(got["ref"]) < 1e-8 and float(got["float"]) < 1e-4, rest
assert not sys.argv[1] or float(got["noise"]) < float(sys.argv[1]), rest
P
}

@test "HYDRA's own layers, scores and PGD: prune and finetune" {
    need_source HYDRA_SOURCE models/layers.py
    agrees prune-weight
    agrees finetune-weight
}

@test "HYDRA's own TRADES, and its loop of free training" {
    need_source HYDRA_SOURCE trainer/freeadv.py
    agrees trades
    agrees free 0.01
}

@test "Robust-ADMM's own projection, updates, penalty and masks: admm and retrain" {
    need_source RADMM_SOURCE admm/admm.py
    agrees admm-weight
    agrees retrain-weight
}
