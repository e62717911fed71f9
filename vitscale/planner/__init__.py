"""What a job needs and how long it takes, before any GPU is asked for; never imports torch."""
