"""The chat: conversations, the thread that generates answers, and messages to the browser."""
