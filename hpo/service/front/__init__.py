"""What stands in front of the tasks: who is let in, how refusals are said, the page of requests."""
