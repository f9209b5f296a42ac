"""The clients that tests use; None is one that is not installed."""
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch one
os.environ["LANGSMITH_TRACING"] = "false"


def module(name):
    try:
        return __import__(name)
    except ImportError:
        return None


openai, anthropic, litellm, langchain_openai = map(
    module, ("openai", "anthropic", "litellm", "langchain_openai"))
