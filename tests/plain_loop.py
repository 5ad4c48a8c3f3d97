"""SPIRIT-FT as its digest writes it, independent of Sluice: one forward per variant. Tests compare with it."""

import torch


class PlainLoop:
    """`model(**inputs, labels=input_ids)` on question + " " + steps, for each variant of each round.

    With `padded` the variants of a round go through the model as one padded batch instead.
    """

    def __init__(self, model, tokenizer, padded=False):
        self.model, self.tokenizer, self.padded = model, tokenizer, padded
        self.tokens = 0

    def refine(self, question, steps, t1=0.95, t2=1.2):
        steps = list(steps)
        while len(steps) > 1:
            without = [steps[:i] + steps[i + 1 :] for i in range(len(steps))]
            ppl, *ppls = self._score([question + " " + " ".join(kept) for kept in [steps, *without]])
            best = min(range(len(ppls)), key=ppls.__getitem__)
            if ppls[best] > t2 * ppl:
                break
            # Below t1 the step is removed; between t1 and t2 the digest's code removes it as well.
            del steps[best]
        return steps

    @torch.inference_mode()
    def _score(self, texts):
        return self._score_padded(texts) if self.padded else [self._score_one(text) for text in texts]

    def _score_one(self, text):
        inputs = self.tokenizer(text, return_tensors="pt")
        self.tokens += inputs["input_ids"].numel()
        return torch.exp(self.model(**inputs, labels=inputs["input_ids"]).loss).item()

    def _score_padded(self, texts):
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        self.tokens += inputs["input_ids"].numel()
        logits = self.model(**inputs).logits[:, :-1].float()
        targets = inputs["input_ids"][:, 1:]
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        mask = inputs["attention_mask"][:, 1:]
        return torch.exp((losses * mask).sum(1) / mask.sum(1)).tolist()
