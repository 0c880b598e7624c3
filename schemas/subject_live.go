package schemas

import "strings"

// SubjectsChatFacts are all facts that are about a chat, or about a run without one.
const SubjectsChatFacts = subjectFact + "*.*.*.*"

// FactsOfApp are all facts of an app.
func FactsOfApp(app string) string { return subjectFact + EscapeToken(app) + ".>" }

// FactsOfChat are all facts about a chat, or about a run without one.
func FactsOfChat(app, chat string) string {
	return subjectFact + EscapeToken(app) + ".*.*." + EscapeToken(chat)
}

// FactSubjectTokens takes the subject of a fact apart: the app's token, the kind, and
// the token of the chat or run, if it has one. The tokens are escaped.
func FactSubjectTokens(subject string) (app, kind, of string, ok bool) {
	rest, ok := strings.CutPrefix(subject, subjectFact)
	if !ok {
		return "", "", "", false
	}
	app, kind, ok = strings.Cut(rest, ".")
	if !ok || app == "" || kind == "" {
		return "", "", "", false
	}
	if strings.Count(kind, ".") == 2 {
		at := strings.LastIndexByte(kind, '.')
		kind, of = kind[:at], kind[at+1:]
	}
	return app, kind, of, true
}
