"""One task, one bounded mailbox, one pure state object; supervised."""
