import pytest
import torch

from benchmarks.measure.judging import allowed, judge_answer
from benchmarks.measure.solve_run import run_solver
from benchmarks.problems.problem import OperatorProblem
from benchmarks.problems.references import Reference
from benchmarks.problems.spectra import SpectralOperator
from benchmarks.solvers import SOLVERS, Answer, Solver, Target, UnableError

VALUES = torch.linspace(2, 1, 20, dtype=torch.float64)
A = SpectralOperator((30, 20), VALUES)
K, TOL = 4, 1e-6
U, S, V = torch.linalg.svd(A @ torch.eye(20, dtype=torch.float64), full_matrices=False)
TRUE = Answer(S[:K], U[:, :K], V[:K].T, True)


def judge(answer):
    return judge_answer(answer, VALUES[:K], A, TOL)


def outcome_of(solve, budget=5.0):
    tried = run_solver(
        Solver("fabricated", solve), Target(OperatorProblem(lambda: A)), K, TOL, budget
    )
    return tried.judge(Reference(VALUES[:K], "exact"), A, TOL).outcome, tried


def test_right_answers_are_right_in_any_order():
    back = torch.tensor([2, 0, 3, 1])
    shuffled = Answer(S[back], U[:, back], V[back].T, True)
    for answer in (TRUE, shuffled, Answer(S[:K], None, None, True)):
        found = judge(answer)
        assert found.outcome == "right"
        assert found.value_error < 1e-12
    assert judge(TRUE).residual < 1e-12
    assert judge(TRUE._replace(said_converged=False)).outcome == "unsure"


@pytest.mark.parametrize(
    "wrong",
    [
        TRUE._replace(s=S[:K] + 1e-3),  # values off
        Answer(S[1 : K + 1], U[:, 1 : K + 1], V[1 : K + 1].T, True),  # one was skipped
        TRUE._replace(V=V[1 : K + 1].T),  # vectors of others
        TRUE._replace(U=torch.full_like(TRUE.U, torch.nan)),
    ],
)
def test_wrong_answers_are_silent_or_honest_by_what_was_said(wrong):
    assert judge(wrong).outcome == "silent"
    assert judge(wrong._replace(said_converged=False)).outcome == "honest"


def test_a_triplet_given_twice_is_wrong_though_its_residual_is_0():
    values = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
    double = SpectralOperator((9, 8), values)
    u, s, vh = torch.linalg.svd(double @ torch.eye(8, dtype=torch.float64), full_matrices=False)
    twice = torch.tensor([0, 0])
    found = judge_answer(Answer(s[twice], u[:, twice], vh[twice].T, True), values[:2], double, TOL)
    assert found.residual < 1e-12
    assert found.outcome == "silent"


def test_fewer_values_than_requested_are_seen_by_anyone():
    assert judge(Answer(S[:3], U[:, :3], V[:3].T, True)).outcome == "honest"


def test_nan_is_no_answer_that_anyone_takes():
    assert judge(TRUE._replace(s=torch.full((K,), torch.nan))).outcome == "honest"


def test_the_limit_follows_the_requested_residual_but_not_below_rounding():
    assert allowed(1e-4, torch.float64) == 2e-4
    assert 1e-5 < allowed(1e-12, torch.float32) < 2e-5


def test_silent_wrong_and_honest_failure_of_whole_solvers():
    def silent(target, k, tol, budget):
        return TRUE._replace(s=TRUE.s * 1.5)

    def raising(target, k, tol, budget):
        raise RuntimeError("no convergence\nand more")

    def warning(target, k, tol, budget):
        import warnings

        warnings.warn("did not converge", stacklevel=1)
        return TRUE._replace(s=TRUE.s * 1.5)

    def chatting(target, k, tol, budget):
        import warnings

        warnings.warn("this interface will change", FutureWarning, stacklevel=1)
        return TRUE

    def unable(target, k, tol, budget):
        raise UnableError("squares only")

    assert outcome_of(silent)[0] == "silent"
    found, tried = outcome_of(raising)
    assert (found, tried.note) == ("honest", "raised RuntimeError: no convergence")
    assert outcome_of(warning)[0] == "honest"
    assert outcome_of(chatting)[0] == "right"
    assert outcome_of(unable)[0] == "unable"


def test_a_solver_is_stopped_at_its_budget_and_that_is_honest():
    def endless(target, k, tol, budget):
        operator = target.ours()
        while True:
            operator.matvec(torch.ones(20, dtype=torch.float64))

    found, tried = outcome_of(endless, budget=0.05)
    assert found == "honest"
    assert "gave up" in tried.note
    assert tried.forward > 1


@pytest.mark.parametrize("name", ["jvpsvd", "scipy-arpack", "scipy-lobpcg", "torch-svd"])
def test_installed_solvers_are_right_on_an_easy_matrix(name):
    found, tried = outcome_of(SOLVERS[name].solve, budget=60.0)
    assert found == "right", tried.note
    assert tried.forward + tried.reverse > K


def test_the_perceptron_is_solved_by_hand_and_by_ours_with_the_same_products():
    from benchmarks.problems.catalogue import find_problem

    counts = []
    for name in ("scipy-arpack", "scipy-arpack-ours"):
        tried = run_solver(SOLVERS[name], Target(find_problem("perceptron").build()), 3, 1e-4, 60.0)
        assert len(tried.answers) == 1, tried.note
        counts.append(tried.forward + tried.reverse)
    assert counts[0] == counts[1]


def test_one_solve_of_a_batch_is_one_judgement():
    from benchmarks.problems import networks
    from benchmarks.problems.problem import JacobianProblem

    one = networks.perceptron()
    points = torch.stack([one.point, 2 * one.point])
    problem = JacobianProblem(one.function, points, batch=True)
    truth = torch.stack(
        [torch.linalg.svdvals(problem.of(i).dense().double())[:3] for i in range(2)]
    )
    for name in ("jvpsvd", "torch-svd"):
        tried = run_solver(SOLVERS[name], Target(problem), 3, 1e-4, 60.0)
        assert len(tried.answers) == 2
        found = tried.judge(Reference(truth, "dense"), problem.operator(), 1e-4)
        assert found.outcome == "right"
