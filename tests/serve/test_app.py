"""The server's own routes, and the door before all of them."""


def test_models_are_listed_with_what_they_are(client):
    listed = {one["id"]: one for one in client.get("/v1/models").json()["data"]}
    kinds = {name: one["kind"] for name, one in listed.items()}
    assert kinds == {"base": "base", "chat": "chat", "instruct": "instruct", "spam": "classifier"}
    assert listed["spam"]["labels"] == ["ham", "spam"]
    assert client.get("/v1/models/chat").json() == listed["chat"]
    assert client.get("/healthz").json() == {"status": "ok"}
