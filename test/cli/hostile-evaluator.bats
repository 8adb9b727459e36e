# Both ends of the evaluator protocol against a peer that misbehaves: the tables are in test/hostile.py.
setup() {
    load ../helpers
    load ../hostile
}

@test "ddpg-search refuses an evaluator that answers nonsense, late, twice, never, or dies, and leaves none running" {
    hostile evaluators 50
}

@test "adveval --serve answers every line, whatever is on it, and goes on" {
    hostile requests 30
}
