package load

import (
	"fmt"
	"net/http"
)

// executeText is what a plugin is sent and gives back.
const executeText = "a hundred bytes that a plugin is sent and gives back, so that there is something to read and to write"

// executeBody makes calls of one plugin, which answers with the text that it is sent.
type executeBody struct{ list []request }

func newExecuteBody(t *Target, p *Plan) *executeBody {
	text := fmt.Sprintf(`{"text":%q}`, executeText)
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n",
		t.at("/api/execute/"+p.Plugin), t.host, p.Token, len(text))
	return &executeBody{[]request{{raw: []byte(head + text), status: http.StatusOK, wanted: []byte(executeText)}}}
}

func (b *executeBody) renew() {}

func (b *executeBody) requests() []request { return b.list }
