"""Stands in for ComfyUI's server, which does not run here: a test puts what it listens with into `instance`."""


class PromptServer:
    instance = None
