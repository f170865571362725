"""A trained model as EleutherAI's lm-eval asks for one. Needs lm-eval (requirements-harness.txt)."""

import json
from collections.abc import Callable

import jax
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from ml_collections import FrozenConfigDict

from gpt2jax.config import overlay
from gpt2jax.evaluation.harness_requests import continue_prompts, make_request, make_scorer, rolling_windows
from gpt2jax.evaluation.subject import Subject
from gpt2jax.generation.text import choose_method, context_of, make_generator

MOST_NEW_TOKENS = 256  # where a task does not say; lm-eval's own


class HarnessModel(TemplateLM):
    """lm-eval's three requests, answered by a run.

    Attributes:
      scorer: what scores; its mode is 'causal', or of a masked model 'pseudo_l2r': then what lm-eval calls a
        log-likelihood is a pseudo-log-likelihood.
      method: how texts are drawn (gpt2jax.generation.text.METHODS).
    """

    def __init__(self, subject: Subject, track: Callable):
        super().__init__()
        self._subject, self._track, self._encoder = subject, track, subject.tokenizer
        self.scorer, self.method = make_scorer(subject), choose_method(subject.setup.config, 'auto')

    @property
    def eot_token_id(self) -> int:
        return self._encoder.end_of_text

    @property
    def tokenizer_name(self) -> str:
        return self._encoder.name

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        return self._encoder.encode(string).tolist()

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, **kwargs):
        """[(log p, whether it is the likeliest)] of ((context, continuation), ids of both), in nats."""
        asked = [
            make_request(self.scorer, self.eot_token_id, context, target, texts[1])
            for texts, context, target in requests
        ]
        return [(-score.nats, score.greedy) for score in self.scorer.score(asked, self._track)]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        """log p of whole texts of any length, in nats."""
        windows = [
            rolling_windows(self.scorer, self.eot_token_id, self.tok_encode(request.args[0])) for request in requests
        ]
        scores = iter(self.scorer.score([window for text in windows for window in text], self._track))
        return [-sum(next(scores).nats for _ in text) for text in windows]

    def generate_until(self, requests, disable_tqdm=False):
        """Continuations of prompts, the likeliest tokens or drawn, as the task says."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        texts = [''] * len(requests)
        for numbers in groups.values():
            settings = normalize_gen_kwargs(requests[numbers[0]].args[1], MOST_NEW_TOKENS)
            generator = self._generator(settings)
            prompts = [self.tok_encode(requests[number].args[0]) for number in numbers]
            context, count = context_of(self._subject.setup.config), settings['max_gen_toks']
            found = continue_prompts(generator, self._encoder, context, prompts, settings['until'], count, self._track)
            for number, text in zip(numbers, found, strict=True):
                texts[number] = text
        return texts

    def _generator(self, settings: dict):
        setup = self._subject.setup
        sampling = {
            'sampling.temperature': float(settings['temperature']),
            'sampling.top_k': int(settings.get('top_k') or 0),
            'sampling.top_p': float(settings.get('top_p') or 1.0),
            'sampling.stop': True,
        }
        config = FrozenConfigDict(overlay(setup.config, sampling))
        params = self._subject.params
        if setup.config.sharding.fsdp == 1:  # one device draws a few tokens as fast as many
            params = jax.device_put(params, jax.local_devices()[0])
        return make_generator(setup.model, params, self._encoder, config, self.method)
