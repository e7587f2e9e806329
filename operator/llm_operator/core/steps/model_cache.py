"""The steps that see to the model: its claim, its fetch, what nobody needs. By the rules of core/model_cache/. Pure."""

from llm_operator.core import names
from llm_operator.core.actions import Create, Patch
from llm_operator.core.model_cache.claim import build_claim, claim_patch
from llm_operator.core.model_cache.fetch_actions import cancel_unneeded_fetches, fetch_actions, held_open_for
from llm_operator.core.model_cache.fetch_verdict import judge_fetch
from llm_operator.core.model_cache.known_models import is_in_replaced_claim, pin_to_recorded_commit
from llm_operator.core.model_cache.prune import prune_actions
from llm_operator.core.revisions.state import State
from llm_operator.core.steps.situation import LOOK_FOR_CONFLICT_SECONDS, NOTHING, Situation, Step, set_verdict

# A claim that waits for its first pod makes no further event, and the fetch needs its uid.
AFTER_CLAIM_SECONDS = 0.2


def create_the_claim(at: Situation, _: Step) -> Step:
    """The claim of the declared cache, where there is none."""
    cache = at.spec.used_cache
    if cache is None or at.observation.claim is not None:
        return NOTHING
    claim = build_claim(at.observation.parent, cache, kept_for_others=at.observation.others_keep_claim)
    return Step((Create(claim),), waits=(AFTER_CLAIM_SECONDS,))


def see_to_the_model(at: Situation, before: Step) -> Step:
    """Nothing of a revision is applied before its model is there: fetch it, and judge the fetch."""
    observation, target, cache = at.observation, at.target, at.spec.used_cache
    revision = target.fetches
    if revision is None or cache is None:
        return NOTHING
    fetch = Step(tuple(fetch_actions(observation, at.fetch, at.spec, cache, revision, target.history, at.settings)))
    if before.writes_records:
        # What was just written is judged in the next pass.
        return fetch
    found = judge_fetch(observation, at.fetch, at.spec, revision, target.history, at.settings)
    waits = () if found.look_again_after is None else (found.look_again_after,)
    step = Step(waits=waits, suspicion=found.suspicion)
    if found.model is None and (found.verdict is None or found.verdict.state is not State.REJECTED):
        step += fetch
        if observation.claim is None or not names.is_managed(observation.claim):
            # Somebody else's claim carries no label of ours, so no event tells of it.
            step += Step(waits=(LOOK_FOR_CONFLICT_SECONDS,))
    if found.verdict is None:
        return step
    return step + set_verdict(at, revision, found.verdict, found.outcome, found.model)


def refill_the_claim(at: Situation, before: Step) -> Step:
    """A claim that was lost and made anew gets the same files again, for whoever runs or starts."""
    observation, cache, revision = at.observation, at.spec.used_cache, at.target.declared
    if cache is None or revision is None or revision.model is None or revision.state is State.REJECTED:
        return NOTHING
    if not is_in_replaced_claim(revision, observation.claim) or before.sets_verdict:
        return NOTHING
    fetch, history = at.fetch, at.target.history
    if fetch is not None and fetch.model is not None and fetch.model.commit == revision.model.commit:
        return set_verdict(at, revision, revision.verdict, model=fetch.model)
    spec = pin_to_recorded_commit(at.spec, history, observation.claim)
    return Step(tuple(fetch_actions(observation, fetch, spec, cache, revision, history, at.settings)))


def cancel_fetches(at: Situation, _: Step) -> Step:
    """Models that are not declared any more, or were given up, are not fetched to their end."""
    declared, fetches = at.target.declared, at.target.fetches
    given_up = declared is not None and declared.state is State.REJECTED and fetches is None
    pinned = declared is not None and declared.model is not None and fetches is None
    is_recorded = pinned or (declared is not None and declared.state is State.REJECTED)
    actions = cancel_unneeded_fetches(at.observation, at.fetch, given_up=given_up, is_recorded=is_recorded)
    wait = held_open_for(at.observation, at.fetch) if is_recorded else None
    return Step(tuple(actions), waits=() if wait is None else (wait,))


def patch_the_claim(at: Situation, _: Step) -> Step:
    """Late: what is refused must not keep anything else from being done."""
    cache, live = at.spec.used_cache, at.observation.claim
    if cache is None or live is None:
        return NOTHING
    patch = claim_patch(at.observation.parent, cache, live, kept_for_others=at.observation.others_keep_claim)
    return NOTHING if patch is None else Step((patch,))


def prune_the_claim(at: Situation, before: Step) -> Step:
    """Only where nothing else is to be done, but for what may be refused for ever."""
    if not all(isinstance(one, Patch) and one.optional for one in before.actions):
        return NOTHING
    return Step(tuple(prune_actions(at.observation, at.spec, at.target, at.settings)))
