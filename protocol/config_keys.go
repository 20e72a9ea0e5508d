package protocol

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"sync"
	"time"
)

// Key is one configuration key, as the reference lists it.
type Key struct {
	Name    string // full name, such as learner.batch_size
	Type    string // what a value looks like
	Default string
	Doc     string // what it means, its unit and what it costs
	Resume  bool   // it may differ when a run is resumed
}

// Section is the keys below one name, or those of the top level where Name is empty.
type Section struct {
	Name string
	Doc  string
	Keys []Key
}

//go:embed config.go
var configSource string

// configField is a leaf of Config: a key and where its value lives.
type configField struct {
	section string // "" at the top level
	name    string // full name
	owner   string // Go type and field of the leaf, which find its comment
	field   string
	resume  bool
	value   reflect.Value
}

// fields lists the leaves of a configuration in the order of their declaration.
func (c *Config) fields() []configField {
	return appendFields(nil, "", reflect.ValueOf(c).Elem())
}

func appendFields(dst []configField, section string, v reflect.Value) []configField {
	var nested []configField
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if section != "" {
			name = section + "." + name
		}
		if f.Type.Kind() == reflect.Struct {
			nested = appendFields(nested, name, v.Field(i))
			continue
		}
		dst = append(dst, configField{
			section: section,
			name:    name,
			owner:   v.Type().Name(),
			field:   f.Name,
			resume:  f.Tag.Get("resume") == "free",
			value:   v.Field(i),
		})
	}
	return append(dst, nested...)
}

var durationType = reflect.TypeFor[time.Duration]()

// typeName says what a value of a field looks like.
func typeName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "duration"
	case t.Kind() == reflect.Array:
		return "[low, high]"
	case t.Kind() == reflect.Slice:
		return "list of numbers"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Float64:
		return "number"
	default:
		return "whole number"
	}
}

// formatValue writes a value as it would stand in YAML.
func formatValue(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Array, reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = fmt.Sprint(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.String:
		if v.Len() == 0 {
			return `""`
		}
	}
	return fmt.Sprint(v)
}

// Reference lists every section and key with its documentation and default.
func Reference() []Section {
	docs := configComments()
	defaults := DefaultConfig()
	var sections []Section
	for _, f := range defaults.fields() {
		if len(sections) == 0 || sections[len(sections)-1].Name != f.section {
			sections = append(sections, Section{Name: f.section, Doc: docs[f.owner]})
		}
		s := &sections[len(sections)-1]
		s.Keys = append(s.Keys, Key{
			Name:    f.name,
			Type:    typeName(f.value.Type()),
			Default: formatValue(f.value),
			Doc:     docs[f.owner+"."+f.field],
			Resume:  f.resume,
		})
	}
	return sections
}

// configComments reads the comments of config.go: of types under their name, of fields under
// Type.Field. The source is embedded, so that a key is documented in one place for the reader of
// the code, of the reference and of the command's help.
var configComments = sync.OnceValue(func() map[string]string {
	docs := make(map[string]string)
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", configSource, parser.ParseComments)
	if err != nil {
		panic(err) // the compiler has read the same bytes
	}
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.TYPE {
			continue
		}
		for _, spec := range gen.Specs {
			spec := spec.(*ast.TypeSpec)
			docs[spec.Name.Name] = strings.Join(strings.Fields(gen.Doc.Text()), " ")
			for _, f := range spec.Type.(*ast.StructType).Fields.List {
				text := strings.Join(strings.Fields(f.Doc.Text()), " ")
				for _, name := range f.Names {
					docs[spec.Name.Name+"."+name.Name] = text
				}
			}
		}
	}
	return docs
})
