"""What can go wrong in `complete()`; each is importable by handlers from `xml_pipeline.llm`."""

from __future__ import annotations

from xml_pipeline.errors import Refused, Unavailable, XmlPipelineError


class BudgetExhausted(Refused):
    """The thread's token budget does not allow the call; no tokens were used."""

    code = "budget-exhausted"


class NoHandlerContext(XmlPipelineError):
    """`complete()` was called outside a handler, where there is no budget to spend from."""

    code = "no-handler-context"


class LedgerUnavailable(Unavailable):
    """The ledger did not answer within the handler's time; no tokens were used."""

    code = "ledger-unavailable"


class ProviderError(XmlPipelineError):
    """The LLM provider failed, or answered what cannot be used."""

    code = "provider-error"


class ProviderRefused(ProviderError):
    """The provider turned the call down (HTTP 4xx); it did no work for it."""

    code = "provider-refused"


class ProviderUnavailable(ProviderError):
    """The provider did not take the call, after retries: not reachable, HTTP 5xx or 429; it did no work for it."""

    code = "provider-unavailable"


class ProviderTimeout(ProviderError):
    """No answer within the time; whether the provider did the work is unknown."""

    code = "provider-timeout"


class MalformedAnswer(ProviderError):
    """The provider answered, but without the text or the token counts."""

    code = "provider-malformed"
