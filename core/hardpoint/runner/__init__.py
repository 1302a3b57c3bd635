"""One rank of one model on a torch device: persistent batch, prepared steps, forward, sampling."""
