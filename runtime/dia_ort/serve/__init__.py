"""``dia-ort serve``: OpenAI's speech API over HTTP. Importing this loads none of it."""
