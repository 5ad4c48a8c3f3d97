"""What draws samples. The Sampler drives an engine.

    protocol      a request with its own sampling parameters; `sample` and `stream`
    build         the table of engines: from options to a checked, picklable factory
    transformers  a model in this process, with continuous batching (no Ray inside)
    row_cache     keys and values of rows of different lengths, for that engine
    text_stream   text that grows with a sample's tokens and is never taken back
    vllm          vLLM's AsyncLLM, with LoRA and tensor parallelism
    openai        any OpenAI-compatible endpoint

To add an engine: a module with the engine, and an entry in `build.ENGINES`. Options of its own go into
`build.EngineOptions` and become flags of `jobs.sample`.
"""
