//! Field numbers of the messages that kubectl and other typed clients create or replace, as the API's wire format fixes them.

/// How often a field's value appears.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    One(&'static str),
    List(&'static str),
    /// From string to this.
    Map(&'static str),
    /// Known, and not a client's business: status, managed fields.
    Ignored,
}

#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) number: u32,
    pub(super) shape: Shape,
}

/// One line per message: its name, then `field:number:type`.
///
/// Types: `s` string, `b` bytes, `i`/`f` number and flag left out when zero, `I`/`F` kept (pointers), `t` time,
/// `x` int-or-string, `q` quantity, `-` ignored, else a message; `[` before it a list, `{` a map.
const MESSAGES: &str = "
ObjectMeta name:1:s generateName:2:s namespace:3:s selfLink:4:s uid:5:s resourceVersion:6:s generation:7:i creationTimestamp:8:t deletionTimestamp:9:t deletionGracePeriodSeconds:10:I labels:11:{s annotations:12:{s ownerReferences:13:[OwnerReference finalizers:14:[s managedFields:17:-
OwnerReference kind:1:s name:3:s uid:4:s apiVersion:5:s controller:6:F blockOwnerDeletion:7:F
LabelSelector matchLabels:1:{s matchExpressions:2:[Requirement
Requirement key:1:s operator:2:s values:3:[s
Namespace metadata:1:ObjectMeta spec:2:NamespaceSpec status:3:-
NamespaceSpec finalizers:1:[s
ConfigMap metadata:1:ObjectMeta data:2:{s binaryData:3:{b immutable:4:F
Secret metadata:1:ObjectMeta data:2:{b type:3:s stringData:4:{s immutable:5:F
ServiceAccount metadata:1:ObjectMeta secrets:2:[ObjectReference imagePullSecrets:3:[LocalReference automountServiceAccountToken:4:F
ObjectReference kind:1:s namespace:2:s name:3:s uid:4:s apiVersion:5:s resourceVersion:6:s fieldPath:7:s
LocalReference name:1:s
ResourceQuota metadata:1:ObjectMeta spec:2:QuotaSpec status:3:-
QuotaSpec hard:1:{q scopes:2:[s
Service metadata:1:ObjectMeta spec:2:ServiceSpec status:3:-
ServiceSpec ports:1:[ServicePort selector:2:{s clusterIP:3:s type:4:s externalIPs:5:[s sessionAffinity:7:s loadBalancerIP:8:s loadBalancerSourceRanges:9:[s externalName:10:s externalTrafficPolicy:11:s healthCheckNodePort:12:i publishNotReadyAddresses:13:f ipFamilyPolicy:17:s clusterIPs:18:[s ipFamilies:19:[s allocateLoadBalancerNodePorts:20:F loadBalancerClass:21:s internalTrafficPolicy:22:s
ServicePort name:1:s protocol:2:s port:3:i targetPort:4:x nodePort:5:i appProtocol:6:s
SelfSubjectAccessReview metadata:1:ObjectMeta spec:2:AccessSpec status:3:-
AccessSpec resourceAttributes:1:ResourceAttributes nonResourceAttributes:2:PathAttributes
SubjectAccessReview metadata:1:ObjectMeta spec:2:SubjectAccessSpec status:3:-
LocalSubjectAccessReview metadata:1:ObjectMeta spec:2:SubjectAccessSpec status:3:-
SubjectAccessSpec resourceAttributes:1:ResourceAttributes nonResourceAttributes:2:PathAttributes user:3:s groups:4:[s uid:6:s
ResourceAttributes namespace:1:s verb:2:s group:3:s version:4:s resource:5:s subresource:6:s name:7:s
PathAttributes path:1:s verb:2:s
SelfSubjectRulesReview metadata:1:ObjectMeta spec:2:RulesSpec status:3:-
RulesSpec namespace:1:s
SelfSubjectReview metadata:1:ObjectMeta status:2:-
TokenReview metadata:1:ObjectMeta spec:2:TokenReviewSpec status:3:-
TokenReviewSpec token:1:s audiences:2:[s
TokenRequest metadata:1:ObjectMeta spec:2:TokenRequestSpec status:3:-
TokenRequestSpec audiences:1:[s boundObjectRef:3:BoundReference expirationSeconds:4:I
BoundReference kind:1:s apiVersion:2:s name:3:s uid:4:s
CertificateSigningRequest metadata:1:ObjectMeta spec:2:SigningSpec status:3:SigningStatus
SigningSpec request:1:b username:2:s uid:3:s groups:4:[s usages:5:[s extra:6:- signerName:7:s expirationSeconds:8:I
SigningStatus conditions:1:[SigningCondition certificate:2:b
SigningCondition type:1:s reason:2:s message:3:s lastUpdateTime:4:t lastTransitionTime:5:t status:6:s
Role metadata:1:ObjectMeta rules:2:[PolicyRule
ClusterRole metadata:1:ObjectMeta rules:2:[PolicyRule
PolicyRule verbs:1:[s apiGroups:2:[s resources:3:[s resourceNames:4:[s nonResourceURLs:5:[s
RoleBinding metadata:1:ObjectMeta subjects:2:[Subject roleRef:3:RoleRef
ClusterRoleBinding metadata:1:ObjectMeta subjects:2:[Subject roleRef:3:RoleRef
Subject kind:1:s apiGroup:2:s name:3:s namespace:4:s
RoleRef apiGroup:1:s kind:2:s name:3:s
PodDisruptionBudget metadata:1:ObjectMeta spec:2:BudgetSpec status:3:-
BudgetSpec minAvailable:1:x selector:2:LabelSelector maxUnavailable:3:x unhealthyPodEvictionPolicy:4:s
PriorityClass metadata:1:ObjectMeta value:2:I globalDefault:3:f description:4:s preemptionPolicy:5:s
Eviction metadata:1:ObjectMeta deleteOptions:2:DeleteOptions
DeleteOptions gracePeriodSeconds:1:I preconditions:2:Preconditions orphanDependents:3:F propagationPolicy:4:s dryRun:5:[s
Preconditions uid:1:s resourceVersion:2:s
Lease metadata:1:ObjectMeta spec:2:LeaseSpec
LeaseSpec holderIdentity:1:s leaseDurationSeconds:2:I acquireTime:3:t renewTime:4:t leaseTransitions:5:I
Deployment metadata:1:ObjectMeta spec:2:DeploymentSpec status:3:-
DeploymentSpec replicas:1:I selector:2:LabelSelector template:3:PodTemplate strategy:4:Strategy minReadySeconds:5:i revisionHistoryLimit:6:I paused:7:f progressDeadlineSeconds:9:I
Strategy type:1:s rollingUpdate:2:RollingUpdate
RollingUpdate maxUnavailable:1:x maxSurge:2:x
Job metadata:1:ObjectMeta spec:2:JobSpec status:3:-
JobSpec parallelism:1:I completions:2:I activeDeadlineSeconds:3:I selector:4:LabelSelector manualSelector:5:F template:6:PodTemplate backoffLimit:7:I ttlSecondsAfterFinished:8:I completionMode:9:s suspend:10:F podReplacementPolicy:14:s
CronJob metadata:1:ObjectMeta spec:2:CronJobSpec status:3:-
CronJobSpec schedule:1:s startingDeadlineSeconds:2:I concurrencyPolicy:3:s suspend:4:F jobTemplate:5:JobTemplate successfulJobsHistoryLimit:6:I failedJobsHistoryLimit:7:I timeZone:8:s
JobTemplate metadata:1:ObjectMeta spec:2:JobSpec
PodTemplate metadata:1:ObjectMeta spec:2:PodSpec
Pod metadata:1:ObjectMeta spec:2:PodSpec status:3:-
PodSpec containers:2:[Container restartPolicy:3:s terminationGracePeriodSeconds:4:I activeDeadlineSeconds:5:I dnsPolicy:6:s nodeSelector:7:{s serviceAccountName:8:s serviceAccount:9:s nodeName:10:s hostNetwork:11:f hostPID:12:f hostIPC:13:f securityContext:14:PodSecurity imagePullSecrets:15:[LocalReference hostname:16:s subdomain:17:s schedulerName:19:s initContainers:20:[Container automountServiceAccountToken:21:F tolerations:22:[Toleration priorityClassName:24:s priority:25:I enableServiceLinks:30:F preemptionPolicy:31:s
PodSecurity runAsUser:2:I runAsNonRoot:3:F fsGroup:5:I runAsGroup:6:I
Toleration key:1:s operator:2:s value:3:s effect:4:s tolerationSeconds:5:I
Container name:1:s image:2:s command:3:[s args:4:[s workingDir:5:s ports:6:[ContainerPort env:7:[EnvVar resources:8:Resources terminationMessagePath:13:s imagePullPolicy:14:s stdin:16:f stdinOnce:17:f tty:18:f terminationMessagePolicy:20:s
ContainerPort name:1:s hostPort:2:i containerPort:3:i protocol:4:s hostIP:5:s
EnvVar name:1:s value:2:s
Resources limits:1:{q requests:2:{q
";

/// The fields of a message; `None` for one that is not known.
pub(super) fn fields_of(message: &str) -> Option<Vec<Field>> {
    let line = MESSAGES.lines().find(|line| line.split(' ').next() == Some(message) && !message.is_empty())?;
    line.split(' ').skip(1).map(field).collect()
}

fn field(text: &'static str) -> Option<Field> {
    let mut parts = text.splitn(3, ':');
    let (name, number, kind) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    let shape = match kind.split_at_checked(1)? {
        ("-", _) => Shape::Ignored,
        ("[", item) => Shape::List(item),
        ("{", item) => Shape::Map(item),
        _ => Shape::One(kind),
    };
    Some(Field { name, number, shape })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_parses_and_names_only_messages_that_exist() {
        const SCALARS: &[&str] = &["s", "b", "i", "I", "f", "F", "t", "x", "q"];
        for line in MESSAGES.lines().filter(|line| !line.is_empty()) {
            let message = line.split(' ').next().expect("name");
            for field in fields_of(message).unwrap_or_else(|| panic!("{message} does not parse")) {
                if let Shape::One(item) | Shape::List(item) | Shape::Map(item) = field.shape {
                    assert!(SCALARS.contains(&item) || fields_of(item).is_some(), "{message}.{}: {item}", field.name);
                }
            }
        }
    }
}
