"A model behind a server that speaks OpenAI's chat format, and one way to ask whoever can answer."

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ftguide.engine.conversations import tools_of, with_text_arguments
from ftguide.engine.generation import Answer
from ftguide.engine.model_folders import ModelError
from ftguide.engine.rows import as_messages
from ftguide.engine.tokens import answer_limit, context_length
from ftguide.models import LM, load, replies

__all__ = ["Endpoint", "ask", "ask_all", "limit_for"]


@dataclass(frozen=True)
class Endpoint:
    "A model behind a server that speaks OpenAI's chat format; needs the extra `serve`."

    url: str  # such as http://localhost:8000/v1
    model: str  # its name there
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the key; may be unset for a local server
    timeout_s: float = 60.0
    retries: int = 2  # after a failed request
    at_once: int = 8  # requests in flight

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"an endpoint's url starts with http:// or https://, not {self.url!r}")

    def client(self):  # -> openai.OpenAI
        "A client that asks again after 429, 5xx and lost connections, waiting longer each time."
        try:
            import openai
        except ImportError as e:
            raise ModelError("an endpoint needs the openai package: pip install 'ftguide[serve]'") from e
        return openai.OpenAI(
            base_url=self.url,
            api_key=os.environ.get(self.key_variable) or "none",
            timeout=self.timeout_s,
            max_retries=self.retries,
        )

    def say(
        self,
        client,  # of `client()`
        messages: list[dict],
        max_new_tokens: int,
    ) -> tuple[str, int, int, bool]:  # answer, tokens read, tokens written, was it cut at the limit?
        "One answer at temperature 0; ModelError says why there is none, and never shows the key."
        import openai

        try:
            response = client.chat.completions.create(
                model=self.model, max_tokens=max_new_tokens, temperature=0, **_in_their_keys(messages)
            )
            choice = response.choices[0]
            text = (choice.message.content or "").strip()
        except (openai.AuthenticationError, openai.PermissionDeniedError) as e:
            raise ModelError(
                f"{self.url} refuses the key ({e.status_code}): "
                f"set {self.key_variable} to one that may use {self.model}"
            ) from None
        except openai.OpenAIError as e:
            reason = (str(e) or type(e).__name__).splitlines()[0].replace(client.api_key, "(the key)")
            raise ModelError(f"{self.model} at {self.url} does not answer: {reason}") from None
        except (AttributeError, IndexError, TypeError, ValueError) as e:
            raise ModelError(
                f"{self.url} answers something that is no chat completion; "
                "is it the address of an OpenAI-compatible API, with /v1?"
            ) from e
        usage = getattr(response, "usage", None)
        counts = (getattr(usage, name, None) or 0 for name in ("prompt_tokens", "completion_tokens"))
        return (text, *counts, getattr(choice, "finish_reason", None) == "length")

    def ask(
        self,
        prompts: list,  # text or messages
        max_new_tokens: int = 96,
    ) -> list[str]:
        "Answers in the order of the prompts, temperature 0; ModelError when the server does not answer."
        return [answer.text for answer in self.replies(prompts, max_new_tokens)]

    def replies(
        self,
        prompts: list,  # text or messages
        max_new_tokens: int = 96,
    ) -> list[Answer]:
        "What `ask` says, and of each answer whether the limit cut it."

        def answer(prompt) -> Answer:
            text, *_, cut = self.say(client, as_messages(prompt), max_new_tokens)
            return Answer(text, cut)

        with self.client() as client, ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(answer, prompts))


KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")  # of a message that an API knows


def _in_their_keys(messages: list[dict]) -> dict:  # messages; tools where there are some
    tools = tools_of(messages)
    known = [{key: m[key] for key in KEYS if key in m} for m in with_text_arguments(messages)]
    return {"messages": known, **({"tools": tools} if tools else {})}


def limit_for(
    who: LM | Endpoint | Callable,  # as in `ask`, loaded
    references: list[str],  # right answers
    least: int = 96,
) -> int:  # tokens of an answer
    "As `answer_limit` says; where nobody counts tokens, a token for two bytes."
    if isinstance(who, LM):
        return answer_limit(who.tokenizer, references, context_length(who), least)
    return max([least, *(len(reference.encode("utf-8")) // 2 for reference in references)])


def ask(
    who: LM | str | Endpoint | Callable,  # model, folder or hub name; server; or prompts -> answers
    prompts: list,  # text or messages
    max_new_tokens: int = 96,
) -> list[str]:
    "Answers of whoever can answer."
    return [answer.text for answer in ask_all(who, prompts, max_new_tokens)]


def ask_all(
    who: LM | str | Endpoint | Callable,  # as in `ask`
    prompts: list,  # text or messages
    max_new_tokens: int = 96,
) -> list[Answer]:
    "What `ask` says, and of each answer whether the limit cut it; a function's answers are whole."
    if isinstance(who, Endpoint):
        return who.replies(prompts, max_new_tokens)
    if callable(who):
        return [Answer(text, False) for text in who(prompts)]
    return replies(load(who), prompts, max_new_tokens)
