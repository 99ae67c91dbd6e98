"""The chat: conversations, the thread that answers, and what the browser is sent."""
