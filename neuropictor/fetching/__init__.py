"""Downloads: NSD's files, repositories of the Hugging Face hub, weights of judging networks."""
