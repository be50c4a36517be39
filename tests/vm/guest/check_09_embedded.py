"""The embedded server serves a real model under the hardening of the unit."""

from tests.vm.guest.tools import chat, running

running()
status, answer = chat("tiny", max_tokens=4)
assert status == 200, answer
assert answer["choices"][0]["message"]["content"]
assert answer["model"] == "tiny"
