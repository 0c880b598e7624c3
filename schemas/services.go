package schemas

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// What a request on NATS has beside the body that HTTP takes: the ids that there stand in
// the path, in the query or in a token (contract §8). Members that are not read here are
// the body's.

// ParseServiceID reads the app and the id, in the member of that name, of a request about
// one thing.
func ParseServiceID(data []byte, member string) (app, id string, err *Error) {
	r, root := fieldReader{}, (*fieldPath)(nil)
	err = readService(&r, data, map[string]func(*fieldPath, jsonValue){
		"app_id": func(at *fieldPath, v jsonValue) { r.text(at, v, &app, 1, MaxIDChars) },
		member:   func(at *fieldPath, v jsonValue) { r.text(at, v, &id, 1, MaxIDChars) },
	}, func() {
		if id == "" && len(r.faults) == 0 {
			r.missing(root.under(member))
		}
	})
	return app, id, err
}

// ServiceExecution is a request to run a plugin for a user.
type ServiceExecution struct {
	AppID, Plugin, UserID string
	Data                  []byte // the object that HTTP has as its body
}

// ParseServiceExecution reads a request to run a plugin.
func ParseServiceExecution(data []byte) (x ServiceExecution, err *Error) {
	r, root := fieldReader{}, (*fieldPath)(nil)
	err = readService(&r, data, map[string]func(*fieldPath, jsonValue){
		"app_id":  func(at *fieldPath, v jsonValue) { r.text(at, v, &x.AppID, 1, MaxIDChars) },
		"plugin":  func(at *fieldPath, v jsonValue) { r.text(at, v, &x.Plugin, 1, MaxNameChars) },
		"user_id": func(at *fieldPath, v jsonValue) { r.text(at, v, &x.UserID, 1, MaxIDChars) },
		"data": func(at *fieldPath, v jsonValue) {
			if r.object(at, v) {
				x.Data = []byte(v.text)
			}
		},
	}, func() {
		if len(r.faults) > 0 {
			return
		}
		for _, f := range [...]struct {
			name    string
			missing bool
		}{{"plugin", x.Plugin == ""}, {"user_id", x.UserID == ""}, {"data", x.Data == nil}} {
			if f.missing {
				r.missing(root.under(f.name))
			}
		}
	})
	return x, err
}

// ParseServiceQuery reads a question whose members HTTP has as parameters: texts, numbers,
// and lists of texts, which are the same as their texts behind commas. A member that
// nobody would look at is a fault, as a parameter is.
func ParseServiceQuery(data []byte, known ...string) (map[string]string, *Error) {
	r, root := fieldReader{}, (*fieldPath)(nil)
	values := map[string]string{}
	v, err := readJSONValue(data)
	if err != nil {
		return nil, err
	}
	if !r.object(root, v) {
		return nil, r.err()
	}
	v.each(func(name string, value jsonValue) {
		at := root.under(name)
		switch {
		case !slices.Contains(known, name):
			r.fault(at, "extra_forbidden", "is unknown; known are %s", strings.Join(known, ", "))
		case value.null():
		case value.is() == '0':
			values[name] = value.text
		case value.is() == '[':
			var list []string
			r.texts(at, value, &list)
			values[name] = strings.Join(list, ",")
		default:
			s := ""
			r.text(at, value, &s, 0, MaxNameChars)
			values[name] = s
		}
	})
	return values, r.err()
}

func readService(r *fieldReader, data []byte, known map[string]func(*fieldPath, jsonValue), judge func()) *Error {
	v, err := readJSONValue(data)
	if err != nil {
		return err
	}
	if r.fields(nil, v, known) {
		judge()
	}
	return r.err()
}

// ServiceSchema gives a JSON Schema on its own, in one line: with more members, of which
// some are required, and with the schemas that it refers to inside. Its name is that of a
// file of this package.
func ServiceSchema(name string, more map[string]any, required ...string) string {
	root := schemaOf(name)
	delete(root, "examples")
	properties, _ := root["properties"].(map[string]any)
	if len(more) > 0 {
		properties = maps.Clone(properties)
		maps.Copy(properties, more)
		root["properties"] = properties
		list, _ := root["required"].([]any)
		for _, r := range required {
			list = append(list, r)
		}
		root["required"] = list
	}
	defs := map[string]any{}
	bundle(root, defs)
	if len(defs) > 0 {
		root["$defs"] = defs
	}
	text, err := json.Marshal(root)
	if err != nil {
		panic("schema " + name + ": " + err.Error()) // it was read from JSON
	}
	return string(text)
}

func schemaOf(name string) map[string]any {
	var root map[string]any
	if err := json.Unmarshal(JSONSchema(name), &root); err != nil {
		panic("schema " + name + ": " + err.Error())
	}
	return root
}

// bundle leads references to other files into defs, which gets those files.
func bundle(node any, defs map[string]any) {
	switch n := node.(type) {
	case map[string]any:
		for key, child := range n {
			ref, ok := child.(string)
			file, isFile := strings.CutSuffix(ref, ".json")
			if key != "$ref" || !ok || !isFile {
				bundle(child, defs)
				continue
			}
			n[key] = "#/$defs/" + file
			if defs[file] == nil {
				s := schemaOf(file)
				delete(s, "examples")
				delete(s, "$schema")
				defs[file] = s
				bundle(s, defs)
			}
		}
	case []any:
		for _, child := range n {
			bundle(child, defs)
		}
	}
}

// TextMember gives the text of a member of a JSON object; empty when there is none.
func TextMember(data []byte, name string) (text string) {
	v, err := readJSONValue(data)
	if err != nil || v.is() != '{' {
		return ""
	}
	v.each(func(member string, value jsonValue) {
		if member == name && value.is() == '"' {
			text = value.string().decoded()
		}
	})
	return text
}
