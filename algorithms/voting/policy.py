"""A vote and the rule that says when to stop sampling, as one thing that can be saved and served."""

from dataclasses import dataclass
from typing import Any, Final

from algorithms.voting.gain import GainModel
from algorithms.voting.posterior import Posterior
from algorithms.voting.stopping import RULES, BetaWeighted, Cges, Gain, Rule

VERSION: Final = 1
NEED_SCORES: Final = frozenset({"asc", "asc+1", "asc+2"})
NEED_SCORES_TOO: Final = (BetaWeighted, Cges)


@dataclass(frozen=True, slots=True)
class Policy:
    """Draw samples until `rule` says stop, then take the answer of `vote`. `posterior`: if the vote needs one."""

    vote: str
    rule: Rule
    posterior: Posterior | None = None

    @property
    def rule_name(self) -> str:
        """The name of the rule in RULES."""
        return next(name for name, kind in RULES.items() if type(self.rule) is kind)

    @property
    def needs(self) -> frozenset[str]:
        """What every voting sample must have: "score", "log-probability", as `Tally.require` names them."""
        rule, posterior = self.rule, self.posterior
        learned = rule.model if isinstance(rule, Gain) else None
        needs_score = (
            self.vote in NEED_SCORES
            or isinstance(rule, NEED_SCORES_TOO)
            or (posterior is not None and posterior.has_scores)
            or (learned is not None and learned.has_scores)
        )
        return frozenset({"score"} if needs_score else ()) | ({"log-probability"} if self.vote == "ws" else set())

    def to_json(self) -> dict[str, Any]:
        """The policy as plain JSON values."""
        rule = self.rule
        return {
            "version": VERSION,
            "vote": self.vote,
            "rule": self.rule_name,
            "threshold": rule.threshold,
            "minimum": rule.minimum,
            "maximum": rule.maximum,
            "wave": rule.wave,
            "gain": rule.model.to_json() if isinstance(rule, Gain) and rule.model is not None else None,
            "posterior": None if self.posterior is None else self.posterior.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Policy":
        """The policy that `to_json` wrote. Raises ValueError if another version wrote it."""
        if data.get("version") != VERSION:
            raise ValueError(f"this policy has version {data.get('version')}, but {VERSION} is needed: evaluate again")
        posterior = None if data["posterior"] is None else Posterior.from_json(data["posterior"])
        settings = {name: data[name] for name in ("threshold", "minimum", "maximum", "wave")}
        if data["rule"] == "gain":
            rule: Rule = Gain(**settings, model=GainModel.from_json(data["gain"]), posterior=posterior)
        else:
            rule = RULES[data["rule"]](**settings)
        return cls(data["vote"], rule, posterior)
