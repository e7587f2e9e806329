from llm_operator.reconcile import RepairBudget


def test_the_first_repairs_are_free_then_each_waits_twice_as_long() -> None:
    budget, now = RepairBudget(burst=3, longest=60), 0.0
    waits = []
    for _ in range(9):
        wait = budget.wait("u", 1, now)
        waits.append(wait)
        now += wait
        assert budget.wait("u", 1, now) == 0
        budget.spend("u", 1, now)
    assert waits == [0, 0, 0, 2, 4, 8, 16, 32, 60]


def test_a_new_generation_is_written_at_once() -> None:
    budget = RepairBudget(burst=1)
    budget.spend("u", 1, 0)
    budget.spend("u", 1, 1)
    assert budget.wait("u", 1, 1) > 0
    assert budget.wait("u", 2, 1) == 0


def test_a_quiet_time_starts_afresh() -> None:
    budget = RepairBudget(burst=1, longest=60, quiet=10)
    for now in range(5):
        budget.spend("u", 1, float(now))
    budget.spend("u", 1, 1000)
    assert budget.wait("u", 1, 1000) == 2
    budget.spend("u", 1, 1002)
    assert budget.wait("u", 1, 1002) == 4


def test_objects_that_are_gone_are_forgotten() -> None:
    budget = RepairBudget(burst=1)
    budget.spend("u", 1, 0)
    budget.forget({"other"})
    assert budget.wait("u", 1, 0) == 0
