"""Every command: its group, the function that runs it, its summary and two examples. Pure.

It stands apart from the commands, because neither ``--help`` nor shell completion may import
them: that would take 0.4 s of CPU.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Command(NamedTuple):
    """A command.

    Attributes:
        name: What is typed.
        function: Its function in ``commands``.
        summary: Its line in ``llama-router --help``: the first line of the function's docstring.
        examples: Command lines, each with a comment.
        takes_models: Whether its arguments are names of models, which shells complete.
    """

    name: str
    function: str
    summary: str
    examples: tuple[str, str]
    takes_models: bool = False


#: The groups of ``llama-router --help``, each with its commands.
GROUPS: Final[dict[str, tuple[Command, ...]]] = {
    "Serve and configure": (
        Command(
            "serve",
            "serve:serve",
            "Serve the configured models, and those found in caches, until SIGINT or SIGTERM.",
            (
                "llama-router serve                       # with ./router.toml, if it is there",
                "llama-router serve -hf user/repo:Q4_K_M  # fetches that model first",
            ),
        ),
        Command(
            "demo",
            "demo:demo",
            "Make two tiny models, serve them, and print requests to try.",
            (
                "llama-router demo         # serves until Ctrl-C",
                "llama-router demo --once  # measures a swap, and exits",
            ),
        ),
        Command(
            "check",
            "configuration:check",
            "Check a configuration, and print every error; exit with 1 if there is one.",
            (
                "llama-router check             # the file that serve would use",
                "llama-router check --commands  # with the command line of each model",
            ),
        ),
        Command(
            "doctor",
            "doctor:doctor",
            "Look at programs, devices, disks and configuration, and say what to do about faults.",
            (
                "llama-router doctor",
                "llama-router doctor --config /etc/llama-router/router.toml --json",
            ),
        ),
        Command(
            "plan",
            "plan:plan",
            "Print which models fit with which, on which devices, and which would leave for "
            "others.",
            (
                "llama-router plan              # each model alone",
                "llama-router plan coder small  # one after the other",
            ),
            takes_models=True,
        ),
        Command(
            "init",
            "configuration:init",
            "Write the documented example configuration; does not overwrite an existing file.",
            (
                "llama-router init                  # writes ./router.toml",
                "llama-router init --template vllm  # settings for vLLM instead",
            ),
        ),
        Command(
            "schema",
            "configuration:schema",
            "Print the JSON Schema of the configuration, for editors and other programs.",
            (
                "llama-router schema",
                "llama-router schema > router.schema.json",
            ),
        ),
        Command(
            "docs",
            "docs:docs",
            "Print a page of the documentation, or the list of all pages.",
            (
                "llama-router docs                # lists the pages",
                "llama-router docs configuration  # prints one",
            ),
        ),
    ),
    "Models": (
        Command(
            "list",
            "list_models:list_models",
            "List every model that the router would serve, with size and origin.",
            (
                "llama-router list",
                "llama-router list --json  # with paths",
            ),
        ),
        Command(
            "pull",
            "hub:pull",
            "Download a model from the hub into its cache, and print its path.",
            (
                "llama-router pull user/repo         # the usual quantization",
                "llama-router pull user/repo:Q8_0",
            ),
        ),
        Command(
            "rm",
            "hub:remove",
            "Delete a model, and its interrupted downloads, from the hub cache.",
            (
                "llama-router rm user/repo:Q8_0",
                "llama-router rm user/repo  # the only model of it",
            ),
            takes_models=True,
        ),
        Command(
            "import",
            "models:import_",
            "Add every model in a folder and its subfolders to the router permanently.",
            (
                "llama-router import ~/models",
                "llama-router import /srv/gguf --config /etc/llama-router/router.toml",
            ),
        ),
        Command(
            "inspect",
            "models:inspect",
            "Print the header of a GGUF file, and how the router would serve it.",
            (
                "llama-router inspect model.gguf",
                "llama-router inspect model.gguf --chat-template",
            ),
        ),
    ),
    "Running router": (
        Command(
            "run",
            "run:run",
            "Chat with a model in the terminal, or print one answer.",
            (
                "llama-router run coder                        # a chat",
                'cat a.py | llama-router run coder "Find the bug:"',
            ),
            takes_models=True,
        ),
        Command(
            "embed",
            "embed:embed",
            "Print the vectors of texts.",
            (
                'llama-router embed embedder "a text" "another text"',
                "llama-router embed embedder < lines.txt > vectors.jsonl",
            ),
            takes_models=True,
        ),
        Command(
            "bench",
            "bench:bench",
            "Measure how fast a model is through the router.",
            (
                "llama-router bench coder",
                "llama-router bench coder --prompt 512,4096 --clients 1,2,8 --json",
            ),
            takes_models=True,
        ),
        Command(
            "ps",
            "ps:ps",
            "List the models that a running router has loaded.",
            (
                "llama-router ps --all    # also those that are not loaded",
                "llama-router ps --watch  # live, with devices and events",
            ),
        ),
        Command(
            "status",
            "operate:status",
            "Print the state of a running router and of its configuration.",
            (
                "llama-router status",
                "llama-router status --json",
            ),
        ),
        Command(
            "load",
            "operate:load",
            "Load models, and wait until they are ready.",
            (
                "llama-router load coder",
                "llama-router load coder embedder",
            ),
            takes_models=True,
        ),
        Command(
            "unload",
            "operate:unload",
            "Unload models after their requests have ended, and wait until their backends have "
            "exited.",
            (
                "llama-router unload coder --force  # aborts its requests",
                "llama-router unload --all",
            ),
            takes_models=True,
        ),
        Command(
            "set",
            "operate:set_",
            "Change settings of a model in the router's configuration file, and apply them.",
            (
                "llama-router set coder ttl=10m ctx=8192",
                "llama-router set --router drain_s=60",
            ),
            takes_models=True,
        ),
        Command(
            "reload",
            "operate:reload",
            "Make a running router read its configuration now, and print the result.",
            (
                "llama-router reload",
                "llama-router reload --config /etc/llama-router/router.toml",
            ),
        ),
        Command(
            "rescan",
            "operate:rescan",
            "Make a running router scan its folders and caches for models now.",
            (
                "llama-router rescan",
                "llama-router rescan --url http://gpu-box:8082 --token-file token",
            ),
        ),
        Command(
            "logs",
            "model_logs:logs",
            "Print the last output of a model's backends; with --follow also new output.",
            (
                "llama-router logs coder -n 20",
                "llama-router logs coder --follow",
            ),
            takes_models=True,
        ),
    ),
    "Service and shell": (
        Command(
            "install-unit",
            "install_unit:install_unit",
            "Install the router as a systemd service, and print the next steps.",
            (
                "sudo llama-router install-unit  # a service of the system",
                "llama-router install-unit --user",
            ),
        ),
        Command(
            "completion",
            "completion:completion",
            "Print a script that completes commands, options and models in a shell.",
            (
                "source <(llama-router completion bash)",
                "llama-router completion fish > ~/.config/fish/completions/llama-router.fish",
            ),
        ),
    ),
    "Migrate": (
        Command(
            "import-llama-swap",
            "migrate:import_llama_swap",
            "Translate llama-swap's configuration; does not overwrite an existing file.",
            (
                "llama-router import-llama-swap config.yaml",
                "llama-router import-llama-swap config.yaml -o -  # prints it",
            ),
        ),
        Command(
            "import-presets",
            "migrate:import_presets",
            "Translate the INI presets of llama-server; does not overwrite an existing file.",
            (
                "llama-router import-presets presets.ini",
                "llama-router import-presets presets.ini -o -  # prints it",
            ),
        ),
    ),
}

#: All commands, in the order of the help.
COMMANDS: Final = tuple(command for commands in GROUPS.values() for command in commands)
