"""Text in and out: tokenizer, chat templates in a sandbox, incremental detokenization, stop strings."""
