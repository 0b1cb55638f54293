//! Data forms (XEP-0004, XEP-0068): read as fields, written from the fields of a configuration.

use minidom::Element;

use super::envelope::XmlWriter;
use super::ns;
use crate::domain::error::{Over, Refusal};
use crate::domain::node_config::{Field, FieldType, Fields, NodeConfig};

/// More fields, or values in all, than any form of ours has.
const FIELDS_MOST: usize = 200;

/// A form that somebody sent.
#[derive(Clone, Debug, Default)]
pub struct Form {
    /// `type='cancel'` (XEP-0004 §3.1).
    pub cancel: bool,
    /// FORM_TYPE, where it is given; clients leave it out.
    pub form_type: Option<String>,
    /// The other fields, in order.
    pub fields: Fields,
}

impl Form {
    pub fn read(form: &Element) -> Result<Form, Refusal> {
        if !form.is("x", ns::FORM) {
            return Err(Refusal::BadRequest);
        }
        let mut read = Form { cancel: form.attr("type") == Some("cancel"), ..Form::default() };
        let mut values = 0;
        for field in form.children().filter(|c| c.is("field", ns::FORM)) {
            let Some(var) = field.attr("var") else { continue };
            let given: Vec<String> = field.children().filter(|c| c.is("value", ns::FORM)).map(Element::text).collect();
            values += given.len().max(1);
            if values > FIELDS_MOST {
                return Err(Refusal::TooManyFields(Over { size: values, most: FIELDS_MOST }));
            }
            match var {
                "FORM_TYPE" => read.form_type = given.into_iter().next(),
                _ => read.fields.push((var.to_owned(), given)),
            }
        }
        Ok(read)
    }

    /// The first value of a field.
    pub fn value(&self, var: &str) -> Option<&str> {
        self.fields.iter().find(|(v, _)| v == var)?.1.first().map(String::as_str)
    }
}

/// Begins a form: `form` to be filled in, or `result`. The caller closes it.
pub fn open(w: &mut XmlWriter, type_: &str, form_type: &str) {
    w.open("x", ns::FORM).attr("type", type_);
    field(w, "FORM_TYPE", Some("hidden"), None, &[form_type]);
}

/// One field without options.
pub fn field(w: &mut XmlWriter, var: &str, type_: Option<&str>, label: Option<&str>, values: &[&str]) {
    begin_field(w, var, type_, label);
    for value in values {
        w.leaf("value", "", value);
    }
    w.close();
}

fn begin_field(w: &mut XmlWriter, var: &str, type_: Option<&str>, label: Option<&str>) {
    w.open("field", "").attr("var", var);
    if let Some(type_) = type_ {
        w.attr("type", type_);
    }
    if let Some(label) = label {
        w.attr("label", label);
    }
}

/// A node's configuration to be filled in (XEP-0060 §8.2.1).
pub fn configuration(w: &mut XmlWriter, config: &NodeConfig) {
    open(w, "form", ns::NODE_CONFIG);
    for Field { var, kind, label, value, options } in config.fields() {
        let type_ = match kind {
            FieldType::Boolean => "boolean",
            FieldType::TextSingle => "text-single",
            FieldType::ListSingle => "list-single",
        };
        begin_field(w, var, Some(type_), Some(label));
        for (word, label) in options {
            w.open("option", "").attr("label", label).leaf("value", "", word).close();
        }
        w.leaf("value", "", &value).close();
    }
    w.close();
}

/// A node's configuration as it now is (XEP-0060 §8.2.5).
pub fn configured(w: &mut XmlWriter, config: &NodeConfig) {
    open(w, "result", ns::NODE_CONFIG);
    for f in config.fields() {
        field(w, f.var, None, None, &[&f.value]);
    }
    w.close();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::node::NodeKind;

    #[test]
    fn the_form_that_is_offered_can_be_sent_back_as_it_is() {
        let config = NodeConfig { description: "two\nlines".into(), ..NodeConfig::default_for(NodeKind::Microblog) };
        let mut w = XmlWriter::new();
        configuration(&mut w, &config);
        let form = std::str::from_utf8(w.finish().as_bytes()).unwrap().parse::<Element>().unwrap();
        let form = Form::read(&form).unwrap();
        assert_eq!(form.form_type.as_deref(), Some(ns::NODE_CONFIG));
        let mut copy = config.clone();
        for (var, values) in &form.fields {
            copy.set(var, &values.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        }
        assert_eq!(copy, config);
    }

    #[test]
    fn a_form_without_form_type_and_with_odd_fields_is_read() {
        let form = "<x xmlns='jabber:x:data' type='submit'><field/><field var='a'/><field var='b'><value>1</value>\
                    <value>2</value></field><reported/></x>";
        let form = Form::read(&form.parse().unwrap()).unwrap();
        assert_eq!(form.form_type, None);
        assert_eq!(form.fields, [("a".into(), vec![]), ("b".into(), vec!["1".into(), "2".into()])]);
        assert!(Form::read(&"<x xmlns='jabber:x:data' type='cancel'/>".parse().unwrap()).unwrap().cancel);
    }
}
