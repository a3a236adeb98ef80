"""Elastic training from within other people's trainers and clusters.

    from torchtide.integrations.transformers import ElasticTrainer
    from torchtide.integrations.lightning import ElasticTrainer
    from torchtide.integrations import ray

Each module imports its package, and says how to install it when it is missing; this one imports
nothing. See docs/guides/frameworks.md.
"""
