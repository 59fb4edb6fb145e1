"""The JSON-LD context of the Dataspace Protocol 2025-1, built from the specification's term tables.

It says the same about every term as the published context, in another shape: the terms are not scoped to a type and not
protected, because we only use it to read foreign documents and to write the compact form; what a message may hold is
the business of the codecs. Sources: Dataspace Protocol 2025-1, sections on JSON-LD serialisation; ODRL Vocabulary 2.2;
DCAT 3.
"""

from typing import Any

DSP_CONTEXT = "https://w3id.org/dspace/2025/1/context.jsonld"
DSP = "https://w3id.org/dspace/2025/1/"

PREFIXES = ("xsd", "dct", "dcat", "odrl", "dspace")

_ODRL = "http://www.w3.org/ns/odrl/2/"
_DCAT = "http://www.w3.org/ns/dcat#"
_DCT = "http://purl.org/dc/terms/"

_MESSAGES = (
    "DatasetRequestMessage CatalogRequestMessage CatalogError ContractRequestMessage ContractOfferMessage "
    "ContractAgreementMessage ContractAgreementVerificationMessage ContractNegotiationEventMessage "
    "ContractNegotiationTerminationMessage ContractNegotiation ContractNegotiationError TransferRequestMessage "
    "TransferStartMessage TransferCompletionMessage TransferTerminationMessage TransferSuspensionMessage TransferError "
    "TransferProcess DataAddress EndpointProperty VersionsError"
)
_STATES = "REQUESTED OFFERED ACCEPTED AGREED VERIFIED FINALIZED TERMINATED STARTED SUSPENDED COMPLETED"
_DSP_PLAIN = "callbackAddress code dataAddress endpoint name value timestamp"
_DSP_REFERENCES = "consumerPid providerPid agreementId offer agreement participantId"
_DSP_WORDS = "state eventType endpointType"
_DSP_SETS = "reason filter endpointProperties"
_DCAT_TYPES = "Catalog Dataset DataService Distribution"
_DCAT_PLAIN = "endpointURL endpointDescription accessService"
_DCAT_SETS = "dataset catalog service distribution"
# Not in the protocol's own tables: how catalogs name and describe what they hold.
_DCAT_WORDS = "keyword"
_DCT_PLAIN = "title description"

_ODRL_TYPES = "Offer Agreement Set Policy Permission Prohibition Duty Constraint LogicalConstraint"
_ODRL_WORDS = "action leftOperand operator"
_ODRL_REFERENCES = "target assigner assignee"
_ODRL_SETS = "permission prohibition obligation duty constraint hasPolicy and or xone"
_ODRL_ACTIONS = (
    "use read aggregate anonymize delete inform compensate attribute obtainConsent include distribute derive "
    "reproduce transfer"
)
_ODRL_OPERANDS = (
    "purpose dateTime elapsedTime timeInterval delayPeriod count spatial recipient payAmount event product percentage "
    "meteredTime unitOfCount systemDevice language media fileFormat industry version virtualLocation"
)
_ODRL_OPERATORS = "eq neq gt gteq lt lteq hasPart isA isAllOf isAnyOf isNoneOf isPartOf term-lteq"


def dsp_context() -> dict[str, Any]:
    """Return the context document (a fresh copy each time)."""
    terms: dict[str, Any] = {
        "@version": 1.1,
        "xsd": "http://www.w3.org/2001/XMLSchema#",
        "dct": _DCT,
        "dcat": _DCAT,
        "odrl": _ODRL,
        "dspace": DSP,
    }
    _add(terms, DSP, _MESSAGES, _STATES, _DSP_PLAIN)
    _add(terms, DSP, _DSP_REFERENCES, kind={"@type": "@id"})
    _add(terms, DSP, _DSP_WORDS, kind={"@type": "@vocab"})
    _add(terms, DSP, _DSP_SETS, kind={"@container": "@set"})
    _add(terms, _DCAT, _DCAT_TYPES, _DCAT_PLAIN, _DCAT_WORDS)
    _add(terms, _DCT, _DCT_PLAIN)
    _add(terms, _DCAT, _DCAT_SETS, kind={"@container": "@set"})
    _add(terms, _ODRL, _ODRL_TYPES, _ODRL_ACTIONS, _ODRL_OPERANDS, _ODRL_OPERATORS)
    _add(terms, _ODRL, _ODRL_WORDS, kind={"@type": "@vocab"})
    _add(terms, _ODRL, _ODRL_REFERENCES, kind={"@type": "@id"})
    _add(terms, _ODRL, _ODRL_SETS, kind={"@container": "@set"})
    # Order matters in one place only.
    terms["andSequence"] = {"@id": _ODRL + "andSequence", "@container": "@list"}
    terms["rightOperand"] = _ODRL + "rightOperand"
    terms["format"] = {"@id": _DCT + "format", "@type": "@vocab"}
    return {"@context": terms}


def _add(terms: dict[str, Any], namespace: str, *words: str, kind: dict[str, str] | None = None) -> None:
    for word in " ".join(words).split():
        terms[word] = {"@id": namespace + word, **kind} if kind else namespace + word
